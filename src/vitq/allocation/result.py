"""What ``vitq.allocate`` returns: a bit table within limits, and the curve on which it is a point."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vitq.allocate import SOLVERS, Problem, Search, Sensitivities
from vitq.allocate.problem import ACTIVATIONS, BIT_OPS, SIZE, WEIGHTS, Choice
from vitq.allocate.solvers.base import solve
from vitq.allocate.trials import MEASURES
from vitq.allocation.files import is_allocation, write_sensitivities
from vitq.artifact.files import exists, read_file, write_files
from vitq.bits import FLOATING_POINT, AverageBits, Bits, BitTable, mixed_label
from vitq.errors import AllocationError, did_you_mean
from vitq.recipes.bit_table import table_of, write_table
from vitq.run.events import Events

MEASURING = ("evolutionary", "quantune")
"""Solvers of vitq that measure whole models; others get no model."""
POINTS = 13
"""Budgets of a Pareto curve."""
CANDIDATES = (2, 3, 4, 5, 6, 8)
"""Bits to choose from, without others."""


@dataclass(frozen=True)
class Point:
    """One choice: the bytes that its tensors take, the distance that is expected of it, averages of its bits.

    ``averages`` are those of weights and of activations, None where no site of that kind can be chosen.
    """

    size_bytes: int
    distance: float
    averages: tuple[float | None, float | None]


@dataclass(frozen=True)
class Allocation:
    """The bits of each site, the limits that they keep, and their expected effect.

    ``table`` is what ``vitq.quantize(bits=...)`` takes; ``curve`` are the best choices at other budgets, by size;
    ``measured`` is the real distance of the choice, where its solver measured it.
    """

    table: BitTable
    bits: Mapping[str, int]
    problem: Problem
    solver: str
    point: Point
    curve: tuple[Point, ...]
    sensitivities: Sensitivities
    measured: float | None = None
    by: str = "output"

    @property
    def costs(self) -> dict[str, float]:
        """Averages, bytes and bit operations of the choice."""
        return self.problem.costs(_choice(self.problem, self.bits))

    @property
    def label(self) -> str:
        """Short name by the averages of what is quantized, such as ``mixed w4.5a4``."""
        costs = self.sensitivities.costs
        bits = {site: width for site, width in self.bits.items() if width != FLOATING_POINT}
        return mixed_label(costs.average(bits, weights=True), costs.average(bits, weights=False))

    @property
    def expected_loss(self) -> float | None:
        """Percent of the task's score that the choice is expected to lose, None where the trials know of none.

        By its expected distance, and by what trials lost for one unit of it.
        """
        try:
            return self.point.distance * self.sensitivities.points_by(self.by)
        except AllocationError:
            return None

    @property
    def floating(self) -> tuple[str, ...]:
        """The sites that could be quantized and stay in floating point."""
        return tuple(site for site, width in self.bits.items() if width == FLOATING_POINT)

    @property
    def blocks(self) -> Mapping[str, str]:
        """The block of each site."""
        return dict(zip(self.sensitivities.sites, self.sensitivities.blocks, strict=True))

    def save(self, folder: str | Path) -> Path:
        """Write sensitivities and bit table into ``folder``, over no other table, and return the table's path."""
        place = Path(folder)
        if not is_allocation(place):
            write_sensitivities(place, self.sensitivities)
        text, stem = write_table(self.table).encode(), "bits-" + self.label.removeprefix("mixed ")
        names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, 1_000_000))
        path = next(p for p in (place / f"{name}.yaml" for name in names) if not exists(p) or read_file(p) == text)
        write_files(place, {path.name: text})
        return path


def decide(
    found: Sensitivities,
    limits: Mapping[str, float],
    *,
    solver: str,
    by: str,
    pairs: bool,
    keep: Mapping[str, int],
    within: float | None = None,
    search: Search,
    events: Events,
) -> Allocation:
    """Choose bits within ``limits``; AllocationError names the nearest that can be had where there are none."""
    problem = found.problem(limits, by=by, pairs=pairs, keep=keep, within=within)
    measured = None
    search.warn = events.warn
    if search.measure is None:
        choice = solve(problem, solver, search)
    else:
        with events.task(f"search by {solver}", search.trials) as task:
            search.advance = task.advance
            choice = solve(problem, solver, search)
    if search.measured:
        measured = search.real(choice)
    bits = {**dict(found.fixed_bits), **problem.named(choice)}
    base = Bits.parse(str(found.about["bits"]))
    order = [name for name in found.costs.sites if name in problem.place]
    table = table_of({name: bits[name] for name in order}, base)
    curve = pareto(problem)
    return Allocation(table, problem.named(choice), problem, solver, point(problem, choice), curve, found, measured, by)


def pareto(problem: Problem) -> tuple[Point, ...]:
    """Return the best choices by expected distance as the average bits of weights and activations grow together.

    By the integer program, without what pairs of sites move together.
    """
    least, most = problem.lowest, problem.highest
    ends = {name: (problem.cost(name, least), problem.cost(name, most)) for name in (WEIGHTS, ACTIVATIONS)}
    points = []
    for share in np.linspace(0, 1, POINTS):
        limits = {name: low + share * (high - low) for name, (low, high) in ends.items()}
        own = problem.within(limits)
        points.append(point(own, SOLVERS["program"](replace(own, directions_SBD=None), Search())))
    return tuple(sorted(dict.fromkeys(points), key=lambda p: p.size_bytes))


def point(problem: Problem, choice: Choice) -> Point:
    """Return a choice as a point of the curve."""
    costs = problem.costs(choice)
    has = [any(site.is_weight == weights for site in problem.sites) for weights in (True, False)]
    averages = (costs[WEIGHTS] if has[0] else None, costs[ACTIVATIONS] if has[1] else None)
    return Point(round(costs[SIZE]), problem.distance(choice), averages)


def candidates_of(given: Sequence[int] | None, limits: Mapping[str, float], within: float | None) -> tuple[int, ...]:
    """Return the candidates, by default those of the budgets: 8 bits or floating point where the score is all."""
    if given is not None:
        if within is not None and FLOATING_POINT not in given:
            return (*given, FLOATING_POINT)
        return tuple(given)
    return CANDIDATES if within is None else (*(CANDIDATES if limits else CANDIDATES[-1:]), FLOATING_POINT)


def limits_of(
    average: AverageBits | float | str | None, size_mb: float | None, bit_ops: float | None, within: float | None = None
) -> dict[str, float]:
    """Return the limits that the arguments of ``vitq.allocate`` set; AllocationError without any."""
    given = average if isinstance(average, AverageBits) or average is None else AverageBits.parse(str(average))
    limits = {
        WEIGHTS: None if given is None else given.weights,
        ACTIVATIONS: None if given is None else given.activations,
        SIZE: None if size_mb is None else size_mb * 1e6,
        BIT_OPS: bit_ops,
    }
    found = {name: limit for name, limit in limits.items() if limit is not None}
    if not found and within is None:
        raise AllocationError("no budget: give average bits, a size, bit operations, or the loss to stay within")
    return found


def require_choices(solver: str, by: str, within: float | None = None) -> None:
    """Raise AllocationError, before any work, for a solver or a measure that does not exist, or cannot do this."""
    for kind, name, known in (("solver", solver, list(SOLVERS)), ("measure", by, list(MEASURES))):
        if name not in known:
            raise AllocationError(f"{kind} '{name}' does not exist{did_you_mean(name, known)}")
    if within is not None and solver in MEASURING:
        raise AllocationError(f"solver {solver} looks for the least distance, which is limited: take program or greedy")
    if within is not None and by == "proxy":
        raise AllocationError("within needs what trials lose of the score, which 'proxy' does not measure: take output")


def _choice(problem: Problem, bits: Mapping[str, int]) -> Choice:
    return np.array([problem.bits.index(bits[site.name]) for site in problem.sites])
