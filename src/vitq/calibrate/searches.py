"""Searches for a range: min-max, percentile, mean squared error of the tensor itself.

All return one candidate per group. Percentile tries min-max too, and MSE tries every percentile, so that the
tensor's error never grows from one to the next.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from vitq.calibrate.candidates import Candidates, Score, SearchSpec
from vitq.calibrate.samples import GroupSamples, quantiles
from vitq.registry import Registry

PERCENTILES = (0.99, 0.995, 0.999, 0.9999, 0.99999, 1.0)
"""RepQ-ViT's levels and two lower ones for 3 and 4 bits; 1 is min-max."""

COARSE = tuple(2.0 ** (-k / 2) for k in range(9))
"""Fractions of an end, 1 to 1/16: ViT activations at 3 bits are best clipped that far."""

FINE = tuple(tuple((a * part, b * part) for a in (-1, 0, 1) for b in (-1, 0, 1)) for part in (0.08, 0.04, 0.02))
"""Later passes: moves of both ends, in parts of the range's width."""

WIDER = 0.25
"""By which part of its width a range of few values grows at each end."""

Moves = Sequence[Sequence[tuple[float, float]]]
"""Per pass, the moves of both ends that a local search tries."""

OUTPUT = "output"
"""The search that needs a whole layer, by its output's error; see output_search.py."""

HESSIAN = "hessian"
"""The same with each output's error weighed by its squared gradient; see sensitivity.py."""

BY_PRODUCT = (OUTPUT, HESSIAN)
"""Searches that start from ``mse`` and look at the product that reads a tensor."""

BUDGET = 1 << 22
"""Elements simulated at once."""

Scored = tuple[Candidates, torch.Tensor]
"""One candidate, and its error_G."""

Search = Callable[[SearchSpec, GroupSamples], Candidates]
SearchType = TypeVar("SearchType", bound=Search)
SEARCHES: Registry[Search] = Registry("search", reserved=BY_PRODUCT)


def register_search(name: str) -> Callable[[SearchType], SearchType]:
    """Register a search under the name that recipes use; raise RecipeError where it is taken."""
    return SEARCHES.register(name)


@register_search("minmax")
def minmax(spec: SearchSpec, samples: GroupSamples) -> Candidates:
    """Return the parameters of each group's whole range; of a format with several for it, the best by tensor error."""
    return _between(spec, samples, *ends(spec, samples))


@register_search("widened")
def widened(spec: SearchSpec, samples: GroupSamples) -> Candidates:
    """Return each group's whole range and a quarter of it more at both ends: for few values, which others will exceed.

    An end at zero stays there. Source: vitq.
    """
    low_G, high_G = ends(spec, samples)
    more_G = WIDER * (high_G - low_G)
    return _between(spec, samples, low_G - more_G * (low_G < 0), high_G + more_G * (high_G > 0))


def _between(spec: SearchSpec, samples: GroupSamples, low_G: torch.Tensor, high_G: torch.Tensor) -> Candidates:
    tried = spec.candidates(low_G[None], high_G[None])
    return tried if len(tried) == 1 else best(tried, tensor_score(spec, samples))[0]


@register_search("percentile")
def percentile(spec: SearchSpec, samples: GroupSamples) -> Candidates:
    """Return each group's best percentile of ``PERCENTILES`` by tensor error (RepQ-ViT, ICCV 2023, code)."""
    return best(percentile_grid(spec, samples), tensor_score(spec, samples))[0]


@register_search("mse")
def mse(spec: SearchSpec, samples: GroupSamples) -> Candidates:
    """Return each group's range of least squared error: clip fractions of both ends, then nearer to the best.

    Source: scale times zero point grid of AdaLog (ECCV 2024) with its passes, here on the range's
    two ends.
    """
    score = tensor_score(spec, samples)
    clipped = best(clip_grid(spec, *ends(spec, samples)), score)
    ranked = best(percentile_grid(spec, samples), score)
    return local_search(spec, better(clipped, ranked)[0], score, FINE)


def clip_grid(spec: SearchSpec, low_G: torch.Tensor, high_G: torch.Tensor) -> Candidates:
    """Return [a·low, b·high] for all fractions a, b in ``COARSE``; about the middle where they need not hold zero."""
    middle_G = torch.zeros_like(low_G) if spec.must_hold_zero else (low_G + high_G) / 2
    ratio_A = torch.tensor(COARSE, device=low_G.device)
    a_K = b_K = ratio_A
    if not spec.one_sided:
        a_K, b_K = torch.cartesian_prod(ratio_A, ratio_A).unbind(1)
    return spec.candidates(middle_G + a_K[:, None] * (low_G - middle_G), middle_G + b_K[:, None] * (high_G - middle_G))


def local_search(spec: SearchSpec, start: Candidates, score: Score, passes: Moves) -> Candidates:
    """Move the ends of each group's range by every pair of a pass (parts of its width), pass after pass.

    A format may try settings of its own beside the moves. Never ends worse than ``start``.
    """
    found, error_G = start, score(start)[0]
    for moves in passes:
        low_1G, high_1G = spec.range(found)
        pairs = [(-b, b) for b in sorted({b for _, b in moves})] if spec.one_sided else moves
        a_K, b_K = torch.tensor(pairs, device=low_1G.device).unbind(1)
        width_1G = high_1G - low_1G
        tried = spec.candidates(low_1G + a_K[:, None] * width_1G, high_1G + b_K[:, None] * width_1G, found)
        found, error_G = better((found, error_G), best(tried, score))
    return found


def ends(spec: SearchSpec, samples: GroupSamples) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each group's exact ends; of a symmetric format ±the larger; zero is held where it must be."""
    low_G, high_G = samples.low_G, samples.high_G
    if spec.format.symmetric:
        high_G = torch.maximum(-low_G, high_G)
        return -high_G, high_G
    if spec.must_hold_zero:
        return low_G.clamp(max=0.0), high_G.clamp(min=0.0)
    return low_G, high_G


def percentile_grid(spec: SearchSpec, samples: GroupSamples) -> Candidates:
    """Return the ranges between the percentiles of ``PERCENTILES`` and their mirror images."""
    levels = torch.tensor(PERCENTILES, device=samples.low_G.device)
    low_KG, high_KG = quantiles(samples, torch.cat((1 - levels, levels))).chunk(2)
    low_G, high_G = ends(spec, samples)
    if spec.format.symmetric:
        high_KG = torch.maximum(-low_KG, high_KG)
        low_KG = -high_KG
    return spec.candidates(torch.cat((low_KG[:-1], low_G[None])), torch.cat((high_KG[:-1], high_G[None])))


def tensor_score(spec: SearchSpec, samples: GroupSamples) -> Score:
    """Return the score that sums the error of the samples to the spec's exponent, each with its weight."""

    def score(tried: Candidates) -> torch.Tensor:
        part = max(BUDGET // samples.values_GN.numel(), 1)
        errors = []
        for first in range(0, len(tried), part):
            piece = tried.part(first, first + part)
            error_KGN = spec.simulate(samples.values_GN[None], piece.spread()).sub_(samples.values_GN)
            error_KGN = error_KGN.square_() if spec.exponent == 2 else error_KGN.abs_().pow_(spec.exponent)
            errors.append(error_KGN.mul_(samples.weights_GN).sum(2))
        return torch.cat(errors)

    return score


def best(tried: Candidates, score: Score) -> Scored:
    """Return each group's best candidate and its error; where groups share a parameter, the best value for all."""
    error_KG = score(tried)
    shared = shared_names(tried)
    if shared:
        values = torch.cat([tried[name].reshape(len(tried), -1) for name in shared], 1)
        kind_K = values.unique(dim=0, return_inverse=True)[1]
        kinds = range(int(kind_K.max()) + 1)
        totals = torch.stack([error_KG[kind_K == kind].amin(0).sum() for kind in kinds])
        chosen_K = kind_K == totals.argmin()
        tried, error_KG = tried.only(chosen_K), error_KG[chosen_K]
    error_G, index_G = error_KG.min(0)
    return tried.pick(index_G), error_G


def better(first: Scored, second: Scored) -> Scored:
    """Return each group's better candidate and its error, ``first`` where equal; all are of one where groups share."""
    won_G = second[1] < first[1]
    if shared_names(first[0]):
        won_G = torch.full_like(won_G, bool(second[1].sum() < first[1].sum()))
    return where(won_G, second[0], first[0]), torch.where(won_G, second[1], first[1])


def where(chosen_G: torch.Tensor, first: Candidates, second: Candidates) -> Candidates:
    """Return ``first`` for the chosen groups and ``second`` for the others."""

    def select(name: str) -> torch.Tensor:
        a, b = first[name], second[name]
        chosen = chosen_G if a.shape[1] == len(chosen_G) else chosen_G[:1]
        return torch.where(chosen.reshape(1, -1, *(1 for _ in a.shape[2:])), a, b)

    return Candidates({name: select(name) for name in first.parameters})


def shared_names(tried: Candidates) -> list[str]:
    """Return the parameters that all groups share."""
    return [name for name, tensor in tried.parameters.items() if tensor.shape[1] != tried.groups]
