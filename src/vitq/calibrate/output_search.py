"""Scores by the error of a product's output (AdaLog, APHQ-ViT, FIMA-Q; the closed forms are vitq's).

A layer computes X Wᵀ. With X̂ = X + E and Ŵ = W + D, the error of its output is X̂ Dᵀ + E Wᵀ, hence for row o
of the weights, given activations, up to a constant:  d G dᵀ + 2 d·c_o,  G_II = X̂ᵀX̂,  C_OI = W EᵀX̂.
The cost does not grow with the tokens. A matmul of activations is X Y with both operands searched in turn.

N: tokens, I: input channels, O: output channels, K: candidates, L: leading axes (images, heads).
"""

import torch

from vitq.calibrate.candidates import Grid, Score, Target
from vitq.calibrate.searches import BUDGET
from vitq.quantizers import parameter_shape

STEPS = (
    tuple((-shrink, shrink) for shrink in (-0.3, -0.2, -0.1, -0.05, 0.05, 0.1)),
    tuple((a, b) for a in (-0.05, 0.0, 0.05) for b in (-0.05, 0.0, 0.05)),
    tuple((a, b) for a in (-0.02, 0.0, 0.02) for b in (-0.02, 0.0, 0.02)),
)
"""Moves of a range's ends, in parts of its width: wider or narrower first, then each end."""


def weight_score(target: Target, w_OI: torch.Tensor, quantized_NI: torch.Tensor, x_NI: torch.Tensor) -> Score:
    """Return the score of weight parameters (G = O, or 1), given the layer's quantized and true input."""
    gram_II = quantized_NI.T @ quantized_NI
    shift_OI = w_OI @ ((quantized_NI - x_NI).T @ quantized_NI)

    def score(grid: Grid) -> torch.Tensor:
        groups = grid.scale_KG.shape[1]
        part = max(BUDGET // w_OI.numel(), 1)
        errors = []
        for first in range(0, len(grid), part):
            piece = grid.part(first, first + part)
            scale, zero = piece.shaped(len(piece), groups, 1)
            change_KOI = target.simulate(w_OI[None], scale, zero) - w_OI
            error_KO = (change_KOI @ gram_II).add_(shift_OI, alpha=2).mul_(change_KOI).sum(2)
            errors.append(error_KO if groups > 1 else error_KO.sum(1, keepdim=True))
        return torch.cat(errors)

    return score


def product_score(
    target: Target, x_LNI: torch.Tensor, axis: int | None, y_LIO: torch.Tensor, quantized_LIO: torch.Tensor
) -> Score:
    """Return the score of X's parameters in X Y, given Y true and quantized.

    ``axis`` is None or a leading axis. With I < O the error is summed through Ŷ Ŷᵀ, without the output.
    """
    shape = parameter_shape(x_LNI.shape, axis)
    change_LIO = quantized_LIO - y_LIO
    gram_LII = quantized_LIO @ quantized_LIO.mT if x_LNI.shape[-1] < y_LIO.shape[-1] else None
    offset = x_LNI @ (change_LIO if gram_LII is None else change_LIO @ quantized_LIO.mT)

    def score(grid: Grid) -> torch.Tensor:
        errors = []
        for k in range(len(grid)):
            scale, zero = grid.part(k, k + 1).shaped(*shape)
            error_LNI = target.simulate(x_LNI, scale, zero).sub_(x_LNI)
            if gram_LII is None:
                squared = (error_LNI @ quantized_LIO).add_(offset).square_()
            else:
                squared = (error_LNI @ gram_LII).add_(offset, alpha=2).mul_(error_LNI)
            errors.append(_group_sums(squared, axis))
        return torch.stack(errors)

    return score


def _group_sums(x: torch.Tensor, axis: int | None) -> torch.Tensor:
    return x.sum()[None] if axis is None else x.movedim(axis, 0).flatten(1).sum(1)
