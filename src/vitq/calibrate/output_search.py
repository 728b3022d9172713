"""Scores by the error of a product's output (AdaLog, APHQ-ViT, FIMA-Q; the closed forms are vitq's).

A layer computes X Wᵀ. With X̂ = X + E and Ŵ = W + D, the error of its output is X̂ Dᵀ + E Wᵀ, hence for row o
of the weights, given activations, up to a constant:  d G dᵀ + 2 d·c_o,  G_II = X̂ᵀX̂,  C_OI = W EᵀX̂.
The cost does not grow with the tokens. A matmul of activations is X Y with both operands searched in turn.
Where outputs have weights (``sensitivity.py``), the error is computed and weighed output by output.

N: tokens, I: input channels, O: output channels, K: candidates, L: leading axes (images, heads).
"""

import torch

from vitq.calibrate.candidates import Candidates, Score, SearchSpec
from vitq.calibrate.searches import BUDGET, Moves, local_search, shared_names
from vitq.quantizers import parameter_shape

MOVES = (
    tuple((-shrink, shrink) for shrink in (-0.3, -0.2, -0.1, -0.05, 0.05, 0.1)),
    tuple((a, b) for a in (-0.05, 0.0, 0.05) for b in (-0.05, 0.0, 0.05)),
    tuple((a, b) for a in (-0.02, 0.0, 0.02) for b in (-0.02, 0.0, 0.02)),
)
"""Moves of a range's ends, in parts of its width: wider or narrower first, then each end."""


def weight_score(
    spec: SearchSpec,
    w_OI: torch.Tensor,
    quantized_NI: torch.Tensor,
    x_NI: torch.Tensor,
    weights_NO: torch.Tensor | None = None,
) -> Score:
    """Return the score of weight parameters (G = O, or 1), given the layer's quantized and true input."""
    if weights_NO is not None:
        return weighted_score(spec, w_OI, quantized_NI, (quantized_NI - x_NI) @ w_OI.T, weights_NO)
    return quadratic_score(spec, w_OI, *_terms(w_OI, quantized_NI, x_NI))


def _terms(w_OI: torch.Tensor, quantized_NI: torch.Tensor, x_NI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return G_II and C_OI."""
    return quantized_NI.T @ quantized_NI, w_OI @ ((quantized_NI - x_NI).T @ quantized_NI)


def quadratic_score(spec: SearchSpec, w_OI: torch.Tensor, gram_II: torch.Tensor, shift_OI: torch.Tensor) -> Score:
    """Return the score d G dᵀ + 2 d·c of weight parameters (one for each row, or one for all)."""

    def score(tried: Candidates) -> torch.Tensor:
        groups = tried.groups
        part = max(BUDGET // w_OI.numel(), 1)
        errors = []
        for first in range(0, len(tried), part):
            piece = tried.part(first, first + part)
            change_KOI = spec.simulate(w_OI[None], piece.spread()) - w_OI
            error_KO = (change_KOI @ gram_II).add_(shift_OI, alpha=2).mul_(change_KOI).sum(2)
            errors.append(error_KO if groups > 1 else error_KO.sum(1, keepdim=True))
        return torch.cat(errors)

    return score


def weighted_score(
    spec: SearchSpec, w_OI: torch.Tensor, quantized_NI: torch.Tensor, rest_NO: torch.Tensor, weights_NO: torch.Tensor
) -> Score:
    """Return the weighted square of X̂ Dᵀ + R for weight parameters, R the part of the error that they do not change."""

    def score(tried: Candidates) -> torch.Tensor:
        errors = []
        for k in range(len(tried)):
            change_OI = spec.simulate(w_OI[None], tried.part(k, k + 1).spread())[0] - w_OI
            errors.append(torch.addmm(rest_NO, quantized_NI, change_OI.T).square_().mul_(weights_NO).sum(0))
        error_KO = torch.stack(errors)
        return error_KO if tried.groups > 1 else error_KO.sum(1, keepdim=True)

    return score


def search_groups(
    spec: SearchSpec,
    start: Candidates,
    w_OI: torch.Tensor,
    quantized_NI: torch.Tensor,
    x_NI: torch.Tensor,
    passes: Moves,
    weights_NO: torch.Tensor | None = None,
) -> Candidates:
    """Lower the output's error by the parameters of one group of inputs after the other, in all rows at once.

    Given the other groups' errors d_h, that of group g is again d_g G_gg d_gᵀ + 2 d_g·(c_g + Σ_h d_h G_hg), so each
    search is exact and the error never grows. A parameter that groups share stays as it is.
    """
    if shared_names(start):
        return start
    size, outputs = spec.format.granularity.size, len(w_OI)
    held = {name: t.reshape(outputs, -1, *t.shape[2:]).clone() for name, t in start.parameters.items()}
    rows = {name: tensor.flatten(0, 1).unsqueeze(1) for name, tensor in held.items()}
    change_OI = spec.simulate(w_OI.reshape(-1, size), rows).reshape(w_OI.shape) - w_OI
    if weights_NO is None:
        gram_II, shift_OI = _terms(w_OI, quantized_NI, x_NI)
    else:
        offset_NO = (quantized_NI - x_NI) @ w_OI.T
    for group in range(w_OI.shape[1] // size):
        own = slice(group * size, (group + 1) * size)
        w_On, change_On = w_OI[:, own], change_OI[:, own]
        if weights_NO is None:
            rest_On = shift_OI[:, own] + change_OI @ gram_II[:, own] - change_On @ gram_II[own, own]
            score = quadratic_score(spec, w_On, gram_II[own, own], rest_On)
        else:
            rest_NO = offset_NO + quantized_NI @ change_OI.T - quantized_NI[:, own] @ change_On.T
            score = weighted_score(spec, w_On, quantized_NI[:, own], rest_NO, weights_NO)
        found = local_search(spec, Candidates({name: t[None, :, group] for name, t in held.items()}), score, passes)
        change_OI[:, own] = spec.simulate(w_On[None], found.spread())[0] - w_On
        for name, tensor in held.items():
            tensor[:, group] = found[name][0]
    return Candidates({name: tensor.flatten(0, 1)[None] for name, tensor in held.items()})


def product_score(
    spec: SearchSpec,
    x_LNI: torch.Tensor,
    axis: int | None,
    y_LIO: torch.Tensor,
    quantized_LIO: torch.Tensor,
    weights_LNO: torch.Tensor | None = None,
) -> Score:
    """Return the score of X's parameters in X Y, given Y true and quantized.

    ``axis`` is None or a leading axis. With I < O the error is summed through Ŷ Ŷᵀ, without the output, unless outputs
    have weights.
    """
    shape = parameter_shape(x_LNI.shape, axis)
    change_LIO = quantized_LIO - y_LIO
    inner = weights_LNO is None and x_LNI.shape[-1] < y_LIO.shape[-1]
    gram_LII = quantized_LIO @ quantized_LIO.mT if inner else None
    offset = x_LNI @ (change_LIO if gram_LII is None else change_LIO @ quantized_LIO.mT)

    def score(tried: Candidates) -> torch.Tensor:
        errors = []
        for k in range(len(tried)):
            error_LNI = spec.simulate(x_LNI, tried.part(k, k + 1).shaped(*shape)).sub_(x_LNI)
            if gram_LII is None:
                squared = (error_LNI @ quantized_LIO).add_(offset).square_()
                squared = squared if weights_LNO is None else squared.mul_(weights_LNO)
            else:
                squared = (error_LNI @ gram_LII).add_(offset, alpha=2).mul_(error_LNI)
            errors.append(_group_sums(squared, axis))
        return torch.stack(errors)

    return score


def _group_sums(x: torch.Tensor, axis: int | None) -> torch.Tensor:
    return x.sum()[None] if axis is None else x.movedim(axis, 0).flatten(1).sum(1)
