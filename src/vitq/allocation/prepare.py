"""From a run and a recipe to sensitivities: calibrate at every candidate, then run the trials."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vitq.allocate import Sensitivities
from vitq.allocate.costs import floating_bytes, shape_of, site_costs, stored_bytes
from vitq.allocate.problem import Choice
from vitq.allocate.simulation import Simulation
from vitq.allocate.trials import Whole, run_trials
from vitq.bits import Bits
from vitq.calibrate import Calibrate
from vitq.errors import AllocationError, RecipeError
from vitq.quantizers import Format, Quantizer, make_quantizer
from vitq.recipes import ResolvedRecipe
from vitq.reconstruct import Reconstruct
from vitq.run.checkpoints import Checkpoints
from vitq.run.pipeline import apply_steps, preview
from vitq.run.run import Run
from vitq.run.step import Step


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
        calibration.model_copy(update={"only_uncalibrated": True, "sites": "all", "rounds": 1}).apply(own)
        library[width] = {name: q for name, q in clone.quantizers.items() if name in sites and isinstance(q, Quantizer)}
    simulation = Simulation(graph, library, run.device)
    return Prepared(simulation, tuple(order), {name: tuple(own) for name, own in formats.items()})


def measure(
    run: Run,
    prepared: Prepared,
    candidates: Sequence[int],
    about: Mapping[str, Any],
    *,
    proxy_only: bool,
    checkpoints: Checkpoints,
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
    place = prepared.simulation.place
    spans = graph.spans("block")
    readers = [place[graph.sites[name].consumers[0]] for name in sites]
    blocks = tuple(next((s.name for s in spans if reader <= place[s.end]), spans[-1].name) for reader in readers)
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


def measurer(prepared: Prepared, run: Run, bits: Sequence[int]) -> Callable[[Choice], float]:
    """Return a function from a choice to its real distance on the run's images."""
    whole = Whole.on(prepared.simulation, run.images_NCHW, run.task)
    return lambda choice: whole({name: bits[place] for name, place in zip(prepared.sites, choice, strict=True)})


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
