"""What many scores say: mean and deviation, and whether one recipe beats another over images and over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05
"""A claim holds where its corrected p is below."""
Z = 1.959963984540054
"""Half-width of a 95 % interval in standard errors."""


@dataclass(frozen=True)
class Spread:
    """Mean and sample deviation of some scores; None for the deviation of one."""

    mean: float
    deviation: float | None
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Return mean and deviation of at least one value."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return Spread(mean, None, 1)
    return Spread(mean, sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)), len(values))


@dataclass(frozen=True)
class Discordant:
    """Images on which exactly one of two models is right, and the exact p of McNemar's test (two-sided)."""

    better: int
    worse: int
    p: float


def mcnemar(better_N: NDArray[np.bool_], other_N: NDArray[np.bool_]) -> Discordant:
    """Compare two models on the same images by what each is right on."""
    gained, lost = int((better_N & ~other_N).sum()), int((~better_N & other_N).sum())
    return Discordant(gained, lost, discordance(gained, lost))


def discordance(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p of McNemar's test from the images that only one of two models gets right.

    Source: McNemar, Psychometrika 12 (1947); exact by the binomial distribution, for the discordant images are coins.
    """
    from scipy.special import bdtr  # a quarter of a second, which every verb would pay

    total = only_first + only_second
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), total, 0.5))) if total else 1.0


def paired_interval(only_first: float, only_second: float, images: int) -> tuple[float, float]:
    """Return the 95 % interval of how much more the first of two models gets right, as shares of 1.

    ``only_first`` and ``only_second`` are images that one of them alone gets right. Source: Wald's interval with half
    an image added to each cell (Agresti and Min, Statistics in Medicine 24, 2005).
    """
    b, c, n = only_first + 0.5, only_second + 0.5, images + 2
    middle, deviation = (b - c) / n, sqrt(b + c - (b - c) ** 2 / n) / n
    return middle - Z * deviation, middle + Z * deviation


def over_seeds(better: Sequence[float], other: Sequence[float]) -> float | None:
    """Return the p of the paired t-test (two-sided) over scores of the same seeds, None for fewer than three.

    Differences that are all alike leave nothing to test: p is 0 where there is one, 1 where there is none.
    """
    from scipy.special import stdtr

    differences = [a - b for a, b in zip(better, other, strict=True)]
    if len(differences) < 3:
        return None
    if max(differences) == min(differences):
        return 0.0 if differences[0] else 1.0
    found = spread(differences)
    assert found.deviation is not None
    t = found.mean / (found.deviation / sqrt(found.count))
    return 2 * float(stdtr(found.count - 1, -abs(t)))


def holm(ps: Sequence[float]) -> list[float]:
    """Return p values corrected for that there are several of them. Source: Holm 1979."""
    order = sorted(range(len(ps)), key=ps.__getitem__)
    corrected, largest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = largest
    return corrected


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Return the interval of a share that holds 95 % of the time, as shares of 1. Source: Wilson 1927."""
    if count == 0:
        return 0.0, 1.0
    share, square = hits / count, Z * Z / count
    centre = (share + square / 2) / (1 + square)
    half = Z * sqrt(share * (1 - share) / count + square / (4 * count)) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)
