"""Searches for a range: min-max, percentile, mean squared error of the tensor itself.

All return one candidate per group. Percentile tries min-max too, and MSE tries every percentile, so that the
tensor's error never grows from one to the next.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from vitq.calibrate.candidates import Grid, Score, Target
from vitq.calibrate.samples import Rows, quantiles
from vitq.registry import Registry

PERCENTILES = (0.99, 0.995, 0.999, 0.9999, 0.99999, 1.0)
"""RepQ-ViT's levels and two lower ones for 3 and 4 bits; 1 is min-max."""

COARSE = tuple(2.0 ** (-k / 2) for k in range(9))
"""Fractions of an end, 1 to 1/16: ViT activations at 3 bits are best clipped that far."""

FINE = tuple(tuple((a * step, b * step) for a in (-1, 0, 1) for b in (-1, 0, 1)) for step in (0.08, 0.04, 0.02))
"""Later passes: moves of both ends, in parts of the range's width."""

Steps = Sequence[Sequence[tuple[float, float]]]
"""Per pass, the moves of both ends that a local search tries."""

OUTPUT = "output"
"""The search that needs a whole layer, by its output's error; see output_search.py."""

BUDGET = 1 << 22
"""Elements simulated at once."""

Search = Callable[[Target, Rows], Grid]
SearchType = TypeVar("SearchType", bound=Search)
SEARCHES: Registry[Search] = Registry("search", reserved=[OUTPUT])


def register_search(name: str) -> Callable[[SearchType], SearchType]:
    """Register a search under the name that recipes use; raise RecipeError where it is taken."""
    return SEARCHES.register(name)


@register_search("minmax")
def minmax(target: Target, rows: Rows) -> Grid:
    """Return the parameters of each group's whole range."""
    low_G, high_G = ends(target, rows)
    return target.grid(low_G[None], high_G[None])


@register_search("percentile")
def percentile(target: Target, rows: Rows) -> Grid:
    """Return each group's best percentile of ``PERCENTILES`` by tensor error (RepQ-ViT, ICCV 2023, code)."""
    return best(percentile_grid(target, rows), tensor_score(target, rows))[0]


@register_search("mse")
def mse(target: Target, rows: Rows) -> Grid:
    """Return each group's range of least squared error: clip fractions of both ends, then nearer to the best.

    Source: scale times zero point grid of AdaLog (ECCV 2024) with its passes, here on the range's
    two ends.
    """
    score = tensor_score(target, rows)
    clipped = best(clip_grid(target, *ends(target, rows)), score)
    ranked = best(percentile_grid(target, rows), score)
    return local_search(target, where(clipped[1] <= ranked[1], clipped[0], ranked[0]), score, FINE)


def clip_grid(target: Target, low_G: torch.Tensor, high_G: torch.Tensor) -> Grid:
    """Return [a·low, b·high] for all fractions a, b in ``COARSE``; about the middle if not anchored."""
    middle_G = torch.zeros_like(low_G) if target.anchored else (low_G + high_G) / 2
    ratio_A = torch.tensor(COARSE, device=low_G.device)
    a_K = b_K = ratio_A
    if not target.one_sided:
        a_K, b_K = torch.cartesian_prod(ratio_A, ratio_A).unbind(1)
    return target.grid(middle_G + a_K[:, None] * (low_G - middle_G), middle_G + b_K[:, None] * (high_G - middle_G))


def local_search(target: Target, start: Grid, score: Score, steps: Steps) -> Grid:
    """Move the ends of each group's range by every pair of a step (parts of its width), step after step.

    Never ends worse than ``start``.
    """
    found, error_G = start, score(start)[0]
    for moves in steps:
        low_1G, high_1G = target.range(found)
        pairs = [(-b, b) for b in sorted({b for _, b in moves})] if target.one_sided else moves
        a_K, b_K = torch.tensor(pairs, device=low_1G.device).unbind(1)
        width_1G = high_1G - low_1G
        grid = target.grid(low_1G + a_K[:, None] * width_1G, high_1G + b_K[:, None] * width_1G)
        rival, rival_error_G = best(grid, score)
        won_G = rival_error_G < error_G
        found, error_G = where(won_G, rival, found), torch.minimum(rival_error_G, error_G)
    return found


def ends(target: Target, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each group's exact ends; a symmetric format gets ±the larger, an anchored one holds zero."""
    low_G, high_G = rows.low_G, rows.high_G
    if target.format.symmetric:
        high_G = torch.maximum(-low_G, high_G)
        return -high_G, high_G
    if target.anchored:
        return low_G.clamp(max=0.0), high_G.clamp(min=0.0)
    return low_G, high_G


def percentile_grid(target: Target, rows: Rows) -> Grid:
    """Return the ranges between the percentiles of ``PERCENTILES`` and their mirror images."""
    levels = torch.tensor(PERCENTILES, device=rows.low_G.device)
    low_KG, high_KG = quantiles(rows, torch.cat((1 - levels, levels))).chunk(2)
    low_G, high_G = ends(target, rows)
    if target.format.symmetric:
        high_KG = torch.maximum(-low_KG, high_KG)
        low_KG = -high_KG
    return target.grid(torch.cat((low_KG[:-1], low_G[None])), torch.cat((high_KG[:-1], high_G[None])))


def tensor_score(target: Target, rows: Rows) -> Score:
    """Return the score that sums the squared error of the rows' values, each with its weight."""

    def score(grid: Grid) -> torch.Tensor:
        part = max(BUDGET // rows.values_GN.numel(), 1)
        errors = []
        for first in range(0, len(grid), part):
            piece = grid.part(first, first + part)
            scale, zero = piece.shaped(len(piece), rows.groups, 1)
            error_KGN = target.simulate(rows.values_GN[None], scale, zero).sub_(rows.values_GN).square_()
            errors.append(error_KGN.mul_(rows.weights_GN).sum(2))
        return torch.cat(errors)

    return score


def best(grid: Grid, score: Score) -> tuple[Grid, torch.Tensor]:
    """Return each group's best candidate and its error."""
    error_G, index_G = score(grid).min(0)
    return grid.pick(index_G), error_G


def where(chosen_G: torch.Tensor, first: Grid, second: Grid) -> Grid:
    """Return ``first`` for the chosen groups and ``second`` for the others."""
    scale = torch.where(chosen_G, first.scale_KG, second.scale_KG)
    if first.zero_KG is None or second.zero_KG is None:
        return Grid(scale, None)
    return Grid(scale, torch.where(chosen_G, first.zero_KG, second.zero_KG))
