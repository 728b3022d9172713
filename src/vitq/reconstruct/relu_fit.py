"""An MLP with a ReLU that gives what another one gave: least squares, then gradients; pure functions.

R: rows (tokens); I, H, O: inputs, hidden values, outputs. ``Weights`` have "first weight" and "second weight", and
"first bias" and "second bias" where the layers have one.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from vitq.tasks.distances import EPSILON, mean_square, relative_square

Weights = Mapping[str, torch.Tensor]

CHUNK = 1 << 13
"""Rows whose hidden values are there at once."""

DAMPING = 1e-4
"""Added to the second moments, in parts of their mean diagonal."""


@dataclass(frozen=True)
class Rows:
    """What an MLP reads and what it gave for it, row by row."""

    x_RI: torch.Tensor
    y_RO: torch.Tensor

    def chunks(self, like: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield some rows after the other, beside ``like`` and of its type."""
        for x, y in zip(self.x_RI.split(CHUNK), self.y_RO.split(CHUNK), strict=True):
            yield x.to(like), y.to(like)


def hidden(weights: Weights, x_RI: torch.Tensor) -> torch.Tensor:
    """Return the hidden values, behind the ReLU."""
    return F.relu(F.linear(x_RI, weights["first weight"], weights.get("first bias")))


def outputs(weights: Weights, hidden_RH: torch.Tensor) -> torch.Tensor:
    """Return what the second linear makes of the hidden values."""
    return F.linear(hidden_RH, weights["second weight"], weights.get("second bias"))


@torch.no_grad()
def solved(weights: Weights, rows: Rows) -> dict[str, torch.Tensor]:
    """Return ``weights`` with the second linear that is best for the first one, by least squares."""
    second, biased = weights["second weight"], "second bias" in weights
    width = second.shape[1] + biased
    gram_HH = second.new_zeros(width, width, dtype=torch.float64)
    right_HO = second.new_zeros(width, len(second), dtype=torch.float64)
    for x_RI, y_RO in rows.chunks(second):
        hidden_RH = F.pad(hidden(weights, x_RI), (0, int(biased)), value=1.0)
        gram_HH += (hidden_RH.T @ hidden_RH).double()
        right_HO += (hidden_RH.T @ y_RO).double()
    gram_HH.diagonal().add_((DAMPING * gram_HH.diagonal().mean()).clamp(min=EPSILON))  # hidden values may all be 0
    found_OH = torch.cholesky_solve(right_HO, torch.linalg.cholesky(gram_HH)).T.to(second)
    bias = {"second bias": found_OH[:, -1].clone()} if biased else {}
    return {**weights, "second weight": found_OH[:, : second.shape[1]].clone(), **bias}


def trained(
    weights: Weights,
    rows: Rows,
    *,
    steps: int,
    tokens: int,
    rate: float,
    clipped: float,
    clip: float,
    generator: torch.Generator,
) -> dict[str, torch.Tensor]:
    """Return ``weights`` after steps of Adam on |f(x) - y|² + clipped |f'(x) - y|², f' with hidden values up to clip.

    Each step takes ``tokens`` rows; the rate falls as a cosine.
    """
    learnt = {name: nn.Parameter(tensor.clone()) for name, tensor in weights.items()}
    like = learnt["second weight"]
    optimizer = torch.optim.Adam(learnt.values(), lr=rate)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        chosen = torch.randint(len(rows.x_RI), (tokens,), generator=generator).to(rows.x_RI.device)
        hidden_RH, y_RO = hidden(learnt, rows.x_RI[chosen].to(like)), rows.y_RO[chosen].to(like)
        loss = mean_square(outputs(learnt, hidden_RH), y_RO)
        if clipped > 0:
            loss = loss + clipped * mean_square(outputs(learnt, hidden_RH.clamp(max=clip)), y_RO)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return {name: tensor.detach() for name, tensor in learnt.items()}


@torch.no_grad()
def error(weights: Weights, rows: Rows) -> float:
    """Return the squared error relative to the energy of what was given."""
    like = weights["second weight"]
    found = [outputs(weights, hidden(weights, x_RI)) for x_RI, _ in rows.chunks(like)]
    return float(relative_square(torch.cat(found), rows.y_RO.to(like)))


def quantile_of_positive(hidden_N: torch.Tensor, level: float) -> float:
    """Return a quantile of the positive values; infinity where there are none."""
    positive = hidden_N[hidden_N > 0].float()
    positive = positive[:: max(len(positive) >> 20, 1)][: 1 << 22]
    return float(positive.quantile(level)) if len(positive) else math.inf
