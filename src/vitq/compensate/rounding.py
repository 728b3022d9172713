"""Weights that make up for quantized inputs and for each other's rounding, as pure functions of second moments.

O: outputs, I: inputs of a layer; x_TI its inputs in floating point, x̂_TI the quantized ones. For any Ŵ,
    |Ŵ x̂ - W x|² = (Ŵ - W*) H (Ŵ - W*)ᵀ + const,  H = x̂ᵀx̂,  W* = W + W D H⁻¹,  D = (x - x̂)ᵀ x̂
so that rounding towards the target W* after GPTQ, which feeds each column's error to those behind it, is the one way
to meet both errors. With a damped H, W* is ERQ's ridge regression; a part of W D H⁻¹ is GPTAQ's module-wise strength.
Sources: GPTQ (arXiv 2210.17323, algorithm 1), GPTAQ (arXiv 2504.02692), ERQ (arXiv 2407.06794, equation 8). GPTAQ adds
its term column by column to those that are not rounded yet; that all of it goes into the target is vitq's choice.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

BLOCK = 64
"""Columns whose errors are fed to the rest in one product."""

Round = Callable[[torch.Tensor, int], torch.Tensor]
"""Return ŵ_O1 of the column w_O1 with the given number."""


@dataclass(frozen=True)
class Moments:
    """H_II = x̂ᵀx̂ and D_II = (x - x̂)ᵀx̂, in double precision, about the means x̂_I and x_I."""

    h_II: torch.Tensor
    d_II: torch.Tensor
    quantized_I: torch.Tensor
    floating_I: torch.Tensor

    def damped(self, damping: float) -> torch.Tensor:
        """Return H with ``damping`` times its mean diagonal added; inputs that are always the same count as one."""
        diagonal = self.h_II.diagonal()
        h_II = self.h_II + torch.diag(torch.where(diagonal > 0, damping * diagonal.mean(), 1.0))
        return h_II


def moments(quantized_TI: torch.Tensor, floating_TI: torch.Tensor) -> Moments:
    """Return the second moments of both inputs, each about its mean, which a bias takes up."""
    quantized_I, floating_I = quantized_TI.double().mean(0), floating_TI.double().mean(0)
    x_hat, x = quantized_TI - quantized_I.float(), floating_TI - floating_I.float()
    return Moments((x_hat.T @ x_hat).double(), ((x - x_hat).T @ x_hat).double(), quantized_I, floating_I)


def target(w_OI: torch.Tensor, known: Moments, damping: float, strength: float) -> torch.Tensor:
    """Return W + strength W D H⁻¹, which makes up for what quantization does to the inputs."""
    if strength == 0:
        return w_OI
    factor = torch.linalg.cholesky(known.damped(damping))
    change_IO = torch.cholesky_solve((w_OI.double() @ known.d_II).T, factor)
    return (w_OI.double() + strength * change_IO.T).to(w_OI.dtype)


def round_columns(w_OI: torch.Tensor, h_II: torch.Tensor, round_column: Round) -> torch.Tensor:
    """Return Ŵ, rounded column by column from the largest diagonal of H down; what is left adapts to each error."""
    order_I = h_II.diagonal().argsort(descending=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h_II[order_I][:, order_I]))
    upper_II = torch.linalg.cholesky(inverse, upper=True).to(w_OI.dtype)
    rest_OI, columns = w_OI[:, order_I].clone(), order_I.tolist()
    for first in range(0, len(columns), BLOCK):
        last = min(first + BLOCK, len(columns))
        errors_OB = torch.empty_like(rest_OI[:, first:last])
        for place in range(first, last):
            column_O1 = rest_OI[:, place : place + 1]
            rounded_O1 = round_column(column_O1, columns[place])
            error_O1 = (column_O1 - rounded_O1) / upper_II[place, place]
            rest_OI[:, place + 1 : last] -= error_O1 * upper_II[place, place + 1 : last]
            errors_OB[:, place - first : place - first + 1] = error_O1
            rest_OI[:, place : place + 1] = rounded_O1
        rest_OI[:, last:] -= errors_OB @ upper_II[first:last, last:]
    result_OI = torch.empty_like(rest_OI)
    result_OI[:, order_I] = rest_OI
    return result_OI


def descend(
    rounded_OI: torch.Tensor, goal_OI: torch.Tensor, h_II: torch.Tensor, round_column: Round, passes: int
) -> torch.Tensor:
    """Return Ŵ after rounding every column again, ``passes`` times, to what is best given all others.

    Ordered by the diagonal of H, largest first. The error (Ŵ - W*) H (Ŵ - W*)ᵀ never grows where rounding is to the
    nearest value. Source: COMQ (arXiv 2403.07134), whose scales, which it also learns, stay here.
    """
    error_OI = (rounded_OI - goal_OI).double()
    for place in h_II.diagonal().argsort(descending=True).tolist() * passes:
        own = h_II[place, place]
        others_O = error_OI @ h_II[:, place] - error_OI[:, place] * own
        column_O1 = (goal_OI[:, place].double() - others_O / own).to(goal_OI.dtype)[:, None]
        error_OI[:, place] = (round_column(column_O1, place) - goal_OI[:, place : place + 1])[:, 0].double()
    return rounded_OI if passes == 0 else (goal_OI.double() + error_OI).to(goal_OI.dtype)


FURTHEST = 2.0
"""A channel's factor and its inverse are at most so large."""


def channel_factors(w_OI: torch.Tensor, rounded_OI: torch.Tensor, known: Moments) -> torch.Tensor:
    """Return per output the factor a with which a Ŵ x̂ comes nearest W x, means left out; 1 where Ŵ x̂ is constant."""
    true_OI, given_OI = w_OI.double(), rounded_OI.double()
    along_O = ((true_OI @ (known.h_II + known.d_II)) * given_OI).sum(1)
    energy_O = ((given_OI @ known.h_II) * given_OI).sum(1)
    a_O = torch.where(energy_O > 0, along_O / energy_O, 1.0)
    return a_O.clamp(1 / FURTHEST, FURTHEST).to(w_OI.dtype)


def bias_change(w_OI: torch.Tensor, rounded_OI: torch.Tensor, known: Moments) -> torch.Tensor:
    """Return what a bias has to gain so that the mean output stays: W mean(x) - Ŵ mean(x̂)."""
    return (w_OI.double() @ known.floating_I - rounded_OI.double() @ known.quantized_I).to(w_OI.dtype)
