"""Scores by the error of a product's output (AdaLog, APHQ-ViT, FIMA-Q; the closed forms are vitq's).

A layer computes X Wᵀ. With X̂ = X + E and Ŵ = W + D, the error of its output is X̂ Dᵀ + E Wᵀ, hence for row o
of the weights, given activations, up to a constant:  d G dᵀ + 2 d·c_o,  G_II = X̂ᵀX̂,  C_OI = W EᵀX̂.
The cost does not grow with the tokens. A matmul of activations is X Y with both operands searched in turn.

N: tokens, I: input channels, O: output channels, K: candidates, L: leading axes (images, heads).
"""

import torch

from vitq.calibrate.candidates import Candidates, Score, SearchSpec
from vitq.calibrate.searches import BUDGET
from vitq.quantizers import parameter_shape

MOVES = (
    tuple((-shrink, shrink) for shrink in (-0.3, -0.2, -0.1, -0.05, 0.05, 0.1)),
    tuple((a, b) for a in (-0.05, 0.0, 0.05) for b in (-0.05, 0.0, 0.05)),
    tuple((a, b) for a in (-0.02, 0.0, 0.02) for b in (-0.02, 0.0, 0.02)),
)
"""Moves of a range's ends, in parts of its width: wider or narrower first, then each end."""


def weight_score(spec: SearchSpec, w_OI: torch.Tensor, quantized_NI: torch.Tensor, x_NI: torch.Tensor) -> Score:
    """Return the score of weight parameters (G = O, or 1), given the layer's quantized and true input."""
    gram_II = quantized_NI.T @ quantized_NI
    shift_OI = w_OI @ ((quantized_NI - x_NI).T @ quantized_NI)

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


def product_score(
    spec: SearchSpec, x_LNI: torch.Tensor, axis: int | None, y_LIO: torch.Tensor, quantized_LIO: torch.Tensor
) -> Score:
    """Return the score of X's parameters in X Y, given Y true and quantized.

    ``axis`` is None or a leading axis. With I < O the error is summed through Ŷ Ŷᵀ, without the output.
    """
    shape = parameter_shape(x_LNI.shape, axis)
    change_LIO = quantized_LIO - y_LIO
    gram_LII = quantized_LIO @ quantized_LIO.mT if x_LNI.shape[-1] < y_LIO.shape[-1] else None
    offset = x_LNI @ (change_LIO if gram_LII is None else change_LIO @ quantized_LIO.mT)

    def score(tried: Candidates) -> torch.Tensor:
        errors = []
        for k in range(len(tried)):
            error_LNI = spec.simulate(x_LNI, tried.part(k, k + 1).shaped(*shape)).sub_(x_LNI)
            if gram_LII is None:
                squared = (error_LNI @ quantized_LIO).add_(offset).square_()
            else:
                squared = (error_LNI @ gram_LII).add_(offset, alpha=2).mul_(error_LNI)
            errors.append(_group_sums(squared, axis))
        return torch.stack(errors)

    return score


def _group_sums(x: torch.Tensor, axis: int | None) -> torch.Tensor:
    return x.sum()[None] if axis is None else x.movedim(axis, 0).flatten(1).sum(1)
