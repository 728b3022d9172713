"""A comparison as data: scores of each recipe at each width, the claims that are tested, and what others published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from vitq.report.units import ERRORS
from vitq.statistics import LEVEL, Spread, holm, mcnemar, over_seeds, spread
from vitq.suites.cells import Cell
from vitq.suites.held_out import MEASURES
from vitq.suites.suite import FLOATING, Claim, Suite
from vitq.suites.work import unpacked

Rows = Mapping[str, Mapping[str, Any]]
"""Results by the key of their cell."""


@dataclass(frozen=True)
class Group:
    """One recipe on one model at one width and budget, over its seeds.

    ``distance`` and ``feature_error`` are of images that are held out, None where there are none.
    """

    model: str
    recipe: str
    bits: str
    budget: str
    metric: str
    score: Spread
    size_bytes: float | None
    seconds: float | None
    distance: float | None = None
    feature_error: float | None = None

    @property
    def merit(self) -> float:
        """The mean score, turned round where less is better, so that more of it always is."""
        return -self.score.mean if self.metric in ERRORS else self.score.mean


@dataclass(frozen=True)
class Tested:
    """One claim at one model, width and budget: the difference of the means, and the p values behind its verdict.

    ``p_images`` is of McNemar's test, of several seeds the largest, so that it stands for each; ``p_seeds`` of the
    paired t-test over seeds. ``p`` is the larger one, corrected for all that are tested.
    """

    better: str
    than: str
    model: str
    bits: str
    budget: str
    metric: str
    difference: float
    seeds: int
    gained: int | None
    lost: int | None
    p_images: float | None
    p_seeds: float | None
    p: float

    @property
    def verdict(self) -> str:
        """``holds``, ``fails`` where the reverse does, or ``not shown``."""
        if self.p >= LEVEL or self.difference == 0:
            return "not shown"
        return "holds" if (self.difference > 0) is not (self.metric in ERRORS) else "fails"


@dataclass(frozen=True)
class Board:
    """All that the leaderboard shows."""

    suite: Suite
    cells: tuple[tuple[Cell, Mapping[str, Any]], ...]
    groups: tuple[Group, ...]
    tested: tuple[Tested, ...]
    missing: tuple[Cell, ...]

    def group(self, model: str, recipe: str, bits: str, budget: str) -> Group | None:
        """Return one group, None where nothing of it is measured."""
        asked = (model, recipe, bits, budget)
        return next((g for g in self.groups if (g.model, g.recipe, g.bits, g.budget) == asked), None)


def board_of(suite: Suite, cells: Sequence[Cell], rows: Rows) -> Board:
    """Set out the results of a suite."""
    measured = tuple((cell, rows[cell.key]) for cell in cells if cell.key in rows)
    places = dict.fromkeys((c.model, c.recipe, c.bits, c.budget) for c, _ in measured)
    groups = [group for place in places if (group := _group(place, measured)) is not None]
    missing = tuple(cell for cell in cells if cell.key not in rows)
    return Board(suite, measured, tuple(groups), _tested(suite.claims, measured), missing)


def _group(place: tuple[str, str, str, str], measured: Sequence[tuple[Cell, Mapping[str, Any]]]) -> Group | None:
    own = [row for cell, row in measured if (cell.model, cell.recipe, cell.bits, cell.budget) == place]
    scores = [row["score"] for row in own if row.get("score") is not None]
    if not scores:
        return None
    means = [_mean([row.get(name) for row in own]) for name in ("size_bytes", "seconds")]
    held_out = [_mean([row.get("held_out", {}).get(name) for row in own]) for name in MEASURES]
    return Group(*place, str(own[0].get("metric")), spread(scores), *means, *held_out)


def _tested(claims: Sequence[Claim], measured: Sequence[tuple[Cell, Mapping[str, Any]]]) -> tuple[Tested, ...]:
    found = []
    rows = {cell.place_key: row for cell, row in measured}
    places = dict.fromkeys((c.model, c.bits, c.budget) for c, _ in measured if c.recipe != FLOATING)
    seeds = sorted({cell.seed for cell, _ in measured})
    for claim, (model, bits, budget) in product(claims, places):
        if claim.bits is not None and bits not in claim.bits:
            continue
        both = [[rows.get((model, r, bits, budget, seed)) for r in (claim.better, claim.than)] for seed in seeds]
        pairs = [(a, b) for a, b in both if a is not None and b is not None]
        if pairs and all(row.get("score") is not None for pair in pairs for row in pair):
            found.append(_one(claim, (model, bits, budget), pairs))
    corrected = holm([test.p for test in found])
    return tuple(Tested(**{**vars(test), "p": p}) for test, p in zip(found, corrected, strict=True))


def _one(
    claim: Claim, place: tuple[str, str, str], pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> Tested:
    mine, theirs = ([float(row["score"]) for row in side] for side in zip(*pairs, strict=True))
    right = [(unpacked(a), unpacked(b)) for a, b in pairs]
    images = [mcnemar(a, b) for a, b in right if a is not None and b is not None and len(a) == len(b)]
    p_images = max((test.p for test in images), default=None)
    p_seeds = over_seeds(mine, theirs)
    known = [p for p in (p_images, p_seeds) if p is not None]
    gained = sum(test.better for test in images) if images else None
    lost = sum(test.worse for test in images) if images else None
    difference = sum(mine) / len(mine) - sum(theirs) / len(theirs)
    p, metric = max(known, default=1.0), str(pairs[0][0].get("metric"))
    return Tested(claim.better, claim.than, *place, metric, difference, len(pairs), gained, lost, p_images, p_seeds, p)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
