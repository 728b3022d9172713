"""From a run and a recipe to sensitivities: calibrate at every candidate, then run the trials."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from vitq.allocate import Sensitivities
from vitq.allocate.costs import floating_bytes, shape_of, site_costs, stored_bytes
from vitq.allocate.problem import Choice
from vitq.allocate.simulation import Simulation
from vitq.allocate.trials import Whole, run_trials
from vitq.allocation.for_target import carried_bits, file_bytes, other_bytes
from vitq.bits import FLOATING_POINT, Bits
from vitq.calibrate import Calibrate
from vitq.errors import AllocationError, RecipeError
from vitq.export.targets import Profile
from vitq.graph import Graph
from vitq.quantizers import Format, Quantizer, make_quantizer
from vitq.recipes import ResolvedRecipe
from vitq.run.checkpoints import Checkpoints
from vitq.run.pipeline import apply_steps, preview
from vitq.run.run import Run
from vitq.run.step import Step


@dataclass(frozen=True)
class Prepared:
    """A model that is ready for trials: rewritten, with calibrated quantizers at every candidate."""

    simulation: Simulation
    sites: tuple[str, ...]
    formats: Mapping[str, tuple[Format | None, ...]]
    """Per site that can be chosen, its format at every candidate, None at 32 bits."""
    allowed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The candidates that a site may get on the target, where those are not all."""
    other_bytes: int | None = None
    """What a file for the target holds beside the weights of ``sites``; None without a target."""


def prepare(
    run: Run,
    plan: ResolvedRecipe,
    candidates: Sequence[int],
    profile: Profile | None = None,
    only_weights: Collection[int] = (),
) -> Prepared:
    """Apply the recipe but what trains at the run's bits, then calibrate its formats at every candidate.

    Rewrites are done once, so that quantizers of different bits fit the same tensors and can be mixed. At 32 bits a
    site has no quantizer. With the ``profile`` of a target, each site's candidates are those that it carries;
    activations get none of ``only_weights``.
    """
    steps = tuple(step for step in plan.steps if not step.trains)
    formats = formats_at(run, steps, candidates, f"recipe '{plan.name}'")
    apply_steps(run, steps)
    return calibrate_candidates(run, steps, formats, profile, only_weights)


def formats_at(
    run: Run, steps: Sequence[Step], candidates: Sequence[int], where: str
) -> dict[int, dict[str, Format | None]]:
    """Return the formats that ``steps`` give the sites whose bits can be chosen, by bits; None at 32.

    RecipeError where nothing calibrates them, AllocationError without such a site; both begin with ``where``.
    """
    calibration_of(steps, where)
    widths = [width for width in candidates if width != FLOATING_POINT]
    if not widths:
        raise AllocationError("all candidates are floating point; add some bits from 2 to 8")
    planned = {width: _planned(run, steps, width) for width in widths}
    sites = [name for name in planned[widths[0]] if all(planned[width][name].bits == width for width in widths)]
    if not sites:
        raise AllocationError(f"{where} leaves no site whose bits can be chosen: take another recipe or scope")
    return {
        width: {name: None if width == FLOATING_POINT else planned[width][name] for name in sites}
        for width in candidates
    }


def calibration_of(steps: Sequence[Step], where: str = "the recipe") -> Calibrate:
    """Return the last step that calibrates; RecipeError where there is none."""
    found = next((step for step in reversed(steps) if isinstance(step, Calibrate)), None)
    if found is None:
        raise RecipeError(f"{where} calibrates nothing: add step calibrate, or take a recipe that has it, such as repq")
    return found


def calibrate_candidates(
    run: Run,
    steps: Sequence[Step],
    formats: Mapping[int, Mapping[str, Format | None]],
    profile: Profile | None = None,
    only_weights: Collection[int] = (),
    stage: str = "",
) -> Prepared:
    """Calibrate ``run.student``, to which ``steps`` were applied, in all ``formats``, and put switches on its sites."""
    graph, calibration = run.student, calibration_of(steps)
    order = [name for name in graph.sites if name in next(iter(formats.values())) and name in graph.quantizers]
    own_formats: dict[str, list[Format | None]] = {name: [] for name in order}
    library: dict[int, dict[str, Quantizer]] = {}
    for width, planned in formats.items():
        clone = graph.clone()
        fitted = {name: fit(clone, name, planned[name], run.device) for name in order}
        for name, form in fitted.items():
            own_formats[name].append(form)
        if width == FLOATING_POINT:
            continue
        own = replace(run, student=clone, stage=f"{stage}bits-{width}", bits=Bits(width, width))
        calibration.model_copy(update={"only_uncalibrated": True, "sites": "all", "rounds": 1}).apply(own)
        library[width] = {
            name: q for name, q in clone.quantizers.items() if name in fitted and isinstance(q, Quantizer)
        }
    allowed: dict[str, tuple[int, ...]] = {}
    others: int | None = None
    if profile is not None:
        allowed = carried_bits(graph, library, order, tuple(formats), profile, only_weights)
        others = other_bytes(graph, library[max(library)], site_costs(graph), profile, run.images_NCHW[:2])
    simulation = Simulation(graph, library, run.device)
    return Prepared(simulation, tuple(order), {name: tuple(own) for name, own in own_formats.items()}, allowed, others)


def fit(graph: Graph, name: str, planned: Format | None, device: torch.device) -> Format | None:
    """Give a site a fresh quantizer of a planned format, where it has another one, and return that format.

    Its granularity stays: rewrites may have changed what was planned. Without a format the site stays as it is.
    """
    old = graph.quantizers[name]
    assert isinstance(old, Quantizer)
    if planned is None:
        return None
    form = replace(planned, granularity=old.format.granularity)
    if form != old.format:
        fresh = make_quantizer(form, old.axis).to(device)
        fresh.site = name
        graph.replace(name, fresh)
    return form


def measure(
    run: Run,
    prepared: Prepared,
    candidates: Sequence[int],
    about: Mapping[str, Any],
    *,
    proxy_only: bool,
    checkpoints: Checkpoints,
    target: str | None = None,
) -> Sensitivities:
    """Run the trials and return what is known of the sites."""
    graph, sites = prepared.simulation.graph, prepared.sites
    costs = site_costs(graph)
    found = run_trials(
        prepared.simulation,
        sites,
        candidates,
        run.images_NCHW,
        run.task,
        proxy_only=proxy_only,
        seed=run.seed,
        checkpoints=checkpoints,
        events=run.events,
        allowed=prepared.allowed,
    )
    nodes = {node.name: node for node in graph.module.graph.nodes}

    def stored(name: str, q: Quantizer | None) -> int:
        cost, shape = costs.sites[name], shape_of(nodes[graph.sites[name].node])
        if q is None:
            return stored_bytes(cost, None, None, shape)
        return stored_bytes(cost, q.format, q.axis, shape, 0 if q.places_P is None else len(q.places_P))

    def size(name: str, form: Format | None) -> int:
        if prepared.other_bytes is not None:
            return file_bytes(costs.sites[name], form)
        return stored(name, None if form is None else _quantizer(prepared.simulation, name, form.bits))

    bytes_SB = [[size(name, form) for form in prepared.formats[name]] for name in sites]
    fixed = {name: _quantizer(prepared.simulation, name, 0) for name in prepared.simulation.fixed}
    fixed_bytes = floating_bytes(graph, {*sites, *fixed}) + sum(stored(name, q) for name, q in fixed.items())
    last, own_blocks = graph.spans("block")[-1].name, graph.blocks()
    blocks = tuple(own_blocks[name] or last for name in sites)
    return Sensitivities(
        about,
        tuple(candidates),
        sites,
        costs,
        found.measures,
        found.probes_SBD,
        np.array(bytes_SB, dtype=np.float64),
        {name: q.format.bits for name, q in fixed.items()},
        fixed_bytes if prepared.other_bytes is None else prepared.other_bytes,
        blocks,
        found.points,
        prepared.allowed,
        target,
    )


def measurer(prepared: Prepared, run: Run, bits: Sequence[int]) -> Callable[[Choice], float]:
    """Return a function from a choice to its real distance on the run's images."""
    whole = Whole.on(prepared.simulation, run.images_NCHW, run.task)
    return lambda choice: whole({name: bits[place] for name, place in zip(prepared.sites, choice, strict=True)})


def _planned(run: Run, steps: Sequence[Step], width: int) -> dict[str, Format]:
    own = replace(run, bits=Bits(width, width))
    return {name: placed.format for name, placed in preview(own, steps).items()}


def _quantizer(simulation: Simulation, name: str, bits: int) -> Quantizer:
    quantizer = simulation.switches[name].quantizers[str(bits)]
    assert isinstance(quantizer, Quantizer)
    return quantizer
