"""What ``vitq.allocate`` does: calibrate a recipe at every candidate, run the trials, choose, keep it in a folder."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from vitq.allocate import SOLVERS, Problem, Search, Sensitivities
from vitq.allocate.costs import floating_bytes, shape_of, site_costs, stored_bytes
from vitq.allocate.problem import ACTIVATIONS, BIT_OPS, SIZE, WEIGHTS, Choice
from vitq.allocate.simulation import Simulation
from vitq.allocate.solvers.base import solve
from vitq.allocate.trials import MEASURES, Whole, run_trials
from vitq.artifact.files import damaged, digest, parse_json, read_file, to_json_bytes, write_files
from vitq.bits import AverageBits, Bits, BitTable, mixed_label
from vitq.calibrate import Calibrate
from vitq.calibrate.scope import roles_of
from vitq.errors import AllocationError, ArtifactError, RecipeError, did_you_mean
from vitq.export.targets import Profile, bits_for
from vitq.graph import Graph
from vitq.quantizers import Format, Quantizer, make_quantizer
from vitq.recipes import ResolvedRecipe
from vitq.recipes.bit_table import table_of, write_table
from vitq.reconstruct import Reconstruct
from vitq.run.checkpoints import Checkpoints, require_same
from vitq.run.events import Events
from vitq.run.pipeline import apply_steps, preview
from vitq.run.run import Run
from vitq.run.step import Step

FILE, TABLE = "sensitivities.json", "bits.yaml"
POINTS = 13
"""Budgets of a Pareto curve."""


@dataclass(frozen=True)
class Point:
    """One choice: the bytes that its tensors take, and the distance that is expected of it."""

    size_bytes: int
    distance: float
    averages: tuple[float | None, float | None]


@dataclass(frozen=True)
class Allocation:
    """Which site gets how many bits, under which limits, and what is expected of that.

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

    @property
    def costs(self) -> dict[str, float]:
        """Averages, bytes and bit operations of the choice."""
        return self.problem.costs(_choice(self.problem, self.bits))

    @property
    def label(self) -> str:
        """Short name, such as ``mixed w4.5a4``."""
        return mixed_label(*self.point.averages)

    def save(self, folder: str | Path) -> Path:
        """Write the bit table and the sensitivities into ``folder`` and return the table's path."""
        place = Path(folder)
        write_files(place, {FILE: _sealed(self.sensitivities), TABLE: write_table(self.table).encode()})
        return place / TABLE


def is_allocation(folder: Path) -> bool:
    """Tell whether ``folder`` holds sensitivities."""
    return (folder / FILE).is_file()


def read_sensitivities(folder: Path) -> Sensitivities:
    """Read the sensitivities in ``folder``; ArtifactError where they are missing, damaged or edited."""
    path = folder / FILE
    data = parse_json(read_file(path), path)
    with damaged(path):
        mark, own = data.pop("vitq"), data.pop("sha256")
        if mark != "sensitivities" or digest(to_json_bytes(data)) != own:
            raise ArtifactError("its hash is not that of its content; measure again")
        return Sensitivities.from_dict(data)


def write_sensitivities(folder: Path, found: Sensitivities) -> None:
    """Write ``found`` into ``folder``, where ``read_sensitivities`` finds it."""
    write_files(folder, {FILE: _sealed(found)})


def _sealed(found: Sensitivities) -> bytes:
    data = found.to_dict()
    return to_json_bytes({"vitq": "sensitivities", "sha256": digest(to_json_bytes(data)), **data})


@dataclass(frozen=True)
class Prepared:
    """A model that is ready for trials: rewritten, with calibrated quantizers at every candidate."""

    simulation: Simulation
    sites: tuple[str, ...]
    formats: Mapping[str, tuple[Format, ...]]
    """Per site that can be chosen, its format at every candidate."""


def prepare(run: Run, plan: ResolvedRecipe, candidates: Sequence[int]) -> Prepared:
    """Apply the recipe but its reconstruction at the run's bits, then calibrate its formats at every candidate.

    Rewrites are done once, so that quantizers of different bits fit the same tensors and can be mixed.
    """
    steps = tuple(step for step in plan.steps if not isinstance(step, Reconstruct))
    calibration = next((step for step in reversed(steps) if isinstance(step, Calibrate)), None)
    if calibration is None:
        raise RecipeError(f"recipe '{plan.name}' calibrates nothing; take another one, such as repq")
    planned = {width: _planned(run, steps, width) for width in candidates}
    sites = tuple(
        name for name in planned[candidates[0]] if all(planned[width][name].bits == width for width in candidates)
    )
    if not sites:
        raise AllocationError(f"recipe '{plan.name}' leaves no site whose bits can be chosen")
    apply_steps(run, steps)
    graph = run.student
    order = [name for name in graph.sites if name in sites and name in graph.quantizers]
    formats: dict[str, list[Format]] = {name: [] for name in order}
    library: dict[int, dict[str, Quantizer]] = {}
    for width in candidates:
        clone = graph.clone()
        for name in order:
            old = clone.quantizers[name]
            assert isinstance(old, Quantizer)
            form = replace(planned[width][name], granularity=old.format.granularity)
            formats[name].append(form)
            if form != old.format:
                fresh = make_quantizer(form, old.axis).to(run.device)
                fresh.site = name
                clone.replace(name, fresh)
        own = replace(run, student=clone, stage=f"bits-{width}", bits=Bits(width, width))
        calibration.model_copy(update={"only_uncalibrated": True, "sites": "all"}).apply(own)
        library[width] = {name: q for name, q in clone.quantizers.items() if name in sites and isinstance(q, Quantizer)}
    simulation = Simulation(graph, library, run.device)
    return Prepared(simulation, tuple(order), {name: tuple(own) for name, own in formats.items()})


def measure(
    run: Run, prepared: Prepared, candidates: Sequence[int], about: Mapping[str, Any], *, proxy_only: bool, checkpoints: Checkpoints
) -> Sensitivities:
    """Run the trials and return what is known of the sites."""
    graph, sites = prepared.simulation.graph, prepared.sites
    costs = site_costs(graph)
    found = run_trials(
        prepared.simulation,
        sites,
        candidates,
        run.images_NCHW,
        proxy_only=proxy_only,
        seed=run.seed,
        checkpoints=checkpoints,
        events=run.events,
    )
    nodes = {node.name: node for node in graph.module.graph.nodes}
    axes = {name: _axis(prepared.simulation, name) for name in sites}
    bytes_SB = [
        [
            stored_bytes(costs.sites[name], form, axes[name], shape_of(nodes[graph.sites[name].node]))
            for form in prepared.formats[name]
        ]
        for name in sites
    ]
    fixed = {name: _fixed(prepared.simulation, name) for name in prepared.simulation.fixed}
    fixed_bytes = floating_bytes(graph, {*sites, *fixed}) + sum(
        stored_bytes(costs.sites[name], q.format, q.axis, shape_of(nodes[graph.sites[name].node]))
        for name, q in fixed.items()
    )
    spans = graph.spans("block")
    place = prepared.simulation.place
    blocks = tuple(
        next(
            (i for i, span in enumerate(spans) if place[graph.sites[name].consumers[0]] <= place[span.end]), len(spans)
        )
        for name in sites
    )
    return Sensitivities(
        about,
        tuple(candidates),
        sites,
        costs,
        found.measures,
        found.probes_SBD,
        np.array(bytes_SB, dtype=np.float64),
        {name: q.format.bits for name, q in fixed.items()},
        fixed_bytes,
        blocks,
    )


def decide(
    found: Sensitivities,
    limits: Mapping[str, float],
    *,
    solver: str,
    by: str,
    pairs: bool,
    keep: Mapping[str, int],
    search: Search,
    events: Events,
) -> Allocation:
    """Choose bits within ``limits``; AllocationError names the nearest that can be had where there are none."""
    if solver not in SOLVERS:
        raise AllocationError(f"solver '{solver}' does not exist{did_you_mean(solver, SOLVERS)}")
    problem = found.problem(limits, by=by, pairs=pairs, keep=keep)
    measured = None
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
    return Allocation(table, problem.named(choice), problem, solver, point(problem, choice), curve, found, measured)


def pareto(problem: Problem) -> tuple[Point, ...]:
    """Return the best choices by expected distance as the average bits of weights and activations grow together.

    By greedy, whose one path answers every budget.
    """
    least, most = problem.lowest, problem.highest
    names = ("average_weights", "average_activations")
    points = []
    for share in np.linspace(0, 1, POINTS):
        limits = {n: problem.cost(n, least) + share * (problem.cost(n, most) - problem.cost(n, least)) for n in names}
        own = problem.within(limits)
        points.append(point(own, SOLVERS["program"](replace(own, directions_SBD=None), Search())))
    return tuple(sorted(dict.fromkeys(points), key=lambda p: p.size_bytes))


def point(problem: Problem, choice: Choice) -> Point:
    """Return a choice as a point of the curve."""
    costs = problem.costs(choice)
    has = [any(site.is_weight == weights for site in problem.sites) for weights in (True, False)]
    weights, activations = costs["average_weights"], costs["average_activations"]
    averages = (weights if has[0] else None, activations if has[1] else None)
    return Point(round(costs["size_bytes"]), problem.distance(choice), averages)


def require_sites(table: BitTable, graph: Graph, scopes: Iterable[str]) -> None:
    """Raise RecipeError where a glob of ``table`` names no site that ``scopes`` quantize."""
    roles = [roles_of(scope) for scope in scopes]
    names = [site.name for site in graph.sites.values() if any(site.readers(own) for own in roles)]
    for pattern in table.sites:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise RecipeError(f"{table.name}: no site matches '{pattern}'{did_you_mean(pattern, names)}")


def label_of(graph: Graph, planned: Mapping[str, Format]) -> str:
    """Return the name of the mixed bits that sites of ``graph`` are planned to get."""
    costs, bits = site_costs(graph), {name: form.bits for name, form in planned.items()}
    return mixed_label(costs.average(bits, weights=True), costs.average(bits, weights=False))


def measurer(prepared: Prepared, run: Run, bits: Sequence[int]) -> Callable[[Choice], float]:
    """Return a function from a choice to its real distance on the run's images."""
    whole = Whole.on(prepared.simulation, run.images_NCHW)
    return lambda choice: whole({name: bits[place] for name, place in zip(prepared.sites, choice, strict=True)})


def _choice(problem: Problem, bits: Mapping[str, int]) -> Choice:
    return np.array([problem.bits.index(bits[site.name]) for site in problem.sites])


def _planned(run: Run, steps: Sequence[Step], width: int) -> dict[str, Format]:
    own = replace(run, bits=Bits(width, width))
    return {name: placed.format for name, placed in preview(own, steps).items()}


def _axis(simulation: Simulation, name: str) -> int | None:
    quantizer = next(iter(simulation.switches[name].quantizers.values()))
    assert isinstance(quantizer, Quantizer)
    return quantizer.axis


def _fixed(simulation: Simulation, name: str) -> Quantizer:
    quantizer = simulation.switches[name].quantizers["0"]
    assert isinstance(quantizer, Quantizer)
    return quantizer


def limits_of(
    average: AverageBits | float | str | None, size_mb: float | None, bit_ops: float | None
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
    if not found:
        raise AllocationError("no budget: give average bits, a size or bit operations")
    return found


def require_choices(solver: str, by: str) -> None:
    """Raise AllocationError, before any work, for a solver or a measure that does not exist."""
    for kind, name, known in (("solver", solver, list(SOLVERS)), ("measure", by, list(MEASURES))):
        if name not in known:
            raise AllocationError(f"{kind} '{name}' does not exist{did_you_mean(name, known)}")


def known_sensitivities(folder: Path, about: Mapping[str, Any]) -> Sensitivities | None:
    """Return what ``folder`` holds, if it was measured on the same; ResumeError where it was not."""
    if not is_allocation(folder):
        return None
    found = read_sensitivities(folder)
    require_same(found.about, json.loads(json.dumps(about)), folder)
    return found


def table_for(table: BitTable, profile: Profile) -> BitTable:
    """Return the table with weights narrowed as a target needs them beside 8-bit activations."""

    def narrowed(pattern: str, width: int) -> int:
        return bits_for(Bits(width, 8), profile).weights if pattern.endswith("weight") else width

    sites = {pattern: narrowed(pattern, width) for pattern, width in table.sites.items()}
    return replace(table, base=bits_for(table.base, profile), sites=sites)
