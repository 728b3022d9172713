"""Scores by the error of the layer's output (AdaLog, APHQ-ViT, FIMA-Q; the closed forms are vitq's).

The output of a layer is X Wᵀ. With X̂ = X + E and Ŵ = W + D its error is X̂ Dᵀ + E Wᵀ, so
    weights given activations, row o:  d G dᵀ + 2 d·c_o,   G_II = X̂ᵀX̂,  C_IO = X̂ᵀE Wᵀ          (any number of tokens)
    activations given weights:         Σ (E H) ∘ E + 2 E ∘ (X M),  H_II = ŴᵀŴ,  M_II = Dᵀ Ŵ      (a sample of tokens)
both up to a constant. N: tokens, I: input channels, O: output channels, K: candidates, L: other leading axes.
"""

from collections.abc import Sequence

import torch

from vitq.calibrate.grid import Grid, Score, Target
from vitq.calibrate.searches import BUDGET

STEPS = ((-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3), (-0.05, 0.0, 0.05), (-0.02, 0.0, 0.02))
"""Moves of a range's ends, in parts of its width: the first round's, then finer."""


def weight_score(target: Target, w_OI: torch.Tensor, quantized_NI: torch.Tensor, x_NI: torch.Tensor) -> Score:
    """Return the score of weight parameters (G = O, or 1 per tensor), given the layer's quantized and true input."""
    gram_II = quantized_NI.T @ quantized_NI
    shift_OI = ((quantized_NI.T @ (quantized_NI - x_NI)) @ w_OI.T).T

    def score(grid: Grid) -> torch.Tensor:
        groups = grid.scale_KG.shape[1]
        part = max(BUDGET // w_OI.numel(), 1)
        errors = []
        for first in range(0, len(grid), part):
            piece = grid.part(first, first + part)
            scale, zero = piece.shaped(len(piece), groups, 1)
            change_KOI = target.simulate(w_OI[None], scale, zero) - w_OI
            error_KO = ((change_KOI @ gram_II + 2 * shift_OI) * change_KOI).sum(2)
            errors.append(error_KO if groups > 1 else error_KO.sum(1, keepdim=True))
        return torch.cat(errors)

    return score


def input_score(target: Target, x_NI: torch.Tensor, w_OI: torch.Tensor, quantized_OI: torch.Tensor) -> Score:
    """Return the score of a per-tensor input's parameters, given true and quantized weights of all layers that read it."""
    change_OI = quantized_OI - w_OI
    through_gram = x_NI.shape[1] <= w_OI.shape[0]
    gram_II = quantized_OI.T @ quantized_OI if through_gram else None
    offset = x_NI @ (change_OI.T @ quantized_OI) if through_gram else x_NI @ change_OI.T

    def score(grid: Grid) -> torch.Tensor:
        errors = []
        for k in range(len(grid)):
            scale, zero = grid.part(k, k + 1).shaped(1, 1)
            error_NI = target.simulate(x_NI, scale, zero) - x_NI
            if gram_II is not None:
                errors.append(((error_NI @ gram_II + 2 * offset) * error_NI).sum())
            else:
                errors.append((error_NI @ quantized_OI.T + offset).square().sum())
        return torch.stack(errors)[:, None]

    return score


def operand_score(
    target: Target, x: torch.Tensor, axis: int | None, shape: Sequence[int], other: torch.Tensor, quantized: torch.Tensor, left: bool
) -> Score:
    """Return the score of one operand's parameters in a matmul of activations, given the other, true and quantized.

    ``shape`` is that of the operand's parameters; tensors are x_L…RS with the group axis among the leading ones.
    """
    truth = x @ other if left else other @ x
    kept = None if axis is None else axis % x.ndim

    def score(grid: Grid) -> torch.Tensor:
        errors = []
        for k in range(len(grid)):
            scale, zero = grid.part(k, k + 1).shaped(*shape)
            simulated = target.simulate(x, scale, zero)
            error = ((simulated @ quantized if left else quantized @ simulated) - truth).square_()
            errors.append(error.sum().reshape(1) if kept is None else error.movedim(kept, 0).flatten(1).sum(1))
        return torch.stack(errors)

    return score
