"""From a model and images to a diagnosis."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from vitq.activations import sites_by_segment, walk
from vitq.allocate.simulation import Simulation
from vitq.allocation.prepare import prepare
from vitq.bits import FLOATING_POINT, Bits
from vitq.data import check_images, load_batches, open_images
from vitq.diagnosis.extremes import extremes
from vitq.diagnosis.hard import Hard, reasons
from vitq.diagnosis.leave_out import LeftOut, leave_out
from vitq.diagnosis.result import Diagnosis
from vitq.diagnosis.sanity import Sanity, sanity_of
from vitq.errors import ArgumentError
from vitq.evidence.sites import distribution, seen_site
from vitq.graph import Graph, Role
from vitq.graph.outputs import as_outputs
from vitq.models import LoadedModel, settle
from vitq.quantizers import Quantizer
from vitq.recipes.for_target import recipe_for
from vitq.run.events import Events
from vitq.run.inputs import start_run
from vitq.run.run import Run
from vitq.tasks import Classes

RECIPE = "repq"
SITE_IMAGES = 8
"""Images on which sites are left out: enough for their order, a minute for a model of DeiT-Tiny's size."""
QUICK = {"calibrate.images": 8, "calibrate.weights": "mse", "calibrate.activations": "mse"}
"""Ranges by squared error: those of the recipe, by the layers' outputs, take minutes, too much for a first look."""
LOOKED_AT = 16
"""Images on which values of hard sites are looked at."""
HARDEST = 6


def diagnose_loaded(
    loaded: LoadedModel,
    images: Any,
    bits: Bits,
    scope: str,
    *,
    take_size: bool,
    limit: int,
    seed: int,
    device: torch.device,
    events: Events,
) -> Diagnosis:
    """Do what ``vitq.diagnose`` says; with ``take_size`` preprocessed images set the model's input size."""
    widths = sorted({width for width in (bits.weights, bits.activations) if width != FLOATING_POINT})
    if not widths:
        raise ArgumentError("bits w32a32 quantize nothing, so there is nothing to leave out; take some from 2 to 8")
    plan = recipe_for(RECIPE, "quick", scope, None, QUICK)
    loaded, x_NCHW, labels_N, pictures = _images(loaded, images, take_size, limit, events)
    run = start_run(loaded, x_NCHW, bits, plan.name, seed=seed, device=device, events=events)
    with events.task("look at the model in floating point"):
        sanity, found = (
            _sanity(run, loaded if pictures else None, labels_N),
            extremes(run.teacher, x_NCHW[:LOOKED_AT], device),
        )
    prepared = prepare(run, plan, widths)
    graph = prepared.simulation.graph
    chosen = {
        site: width
        for site in prepared.sites
        if (width := bits.weights if graph.sites[site].is_weight else bits.activations) != FLOATING_POINT
    }
    left = leave_out(prepared.simulation, chosen, x_NCHW[:SITE_IMAGES], run.task, events)
    return Diagnosis(
        model=loaded.name,
        bits=str(bits),
        scope=scope,
        preprocessing=loaded.preprocessing.describe(),
        images=len(x_NCHW),
        site_images=min(SITE_IMAGES, len(x_NCHW)),
        sanity=sanity,
        extremes=found,
        left_out=left,
        roles={site: str(graph.sites[site].role) for site in chosen},
        blocks=graph.blocks(),
        hard=_hardest(prepared.simulation, run, chosen, left),
        warnings=tuple((warning.name, warning.message) for warning in events.warnings),
    )


def _images(
    loaded: LoadedModel, images: Any, take_size: bool, limit: int, events: Events
) -> tuple[LoadedModel, torch.Tensor, torch.Tensor | None, bool]:
    """Return the model, settled on its images, ``limit`` evenly spaced ones, and their classes where all have one.

    Last, whether they were pictures, so that it is known how they were normalised.
    """
    source = open_images(images, limit=limit)
    if take_size and source.shape is not None:
        loaded = replace(loaded, preprocessing=loaded.preprocessing.of_tensors(source.shape))
    events.show(f"{loaded.name}: {loaded.preprocessing.describe()}")
    batches = list(load_batches(source, loaded.preprocessing, limit, warn=events.warn))
    x_NCHW = torch.cat([x_BCHW for x_BCHW, _ in batches])
    labels = [labels_B for _, labels_B in batches if labels_B is not None and labels_B.ndim == 1]
    check_images(x_NCHW, events.warn)
    loaded = settle(loaded, x_NCHW, events.warn)
    events.show(f"{loaded.name}: {loaded.meaning}")
    labels_N = torch.cat(labels) if len(labels) == len(batches) else None
    return loaded, x_NCHW, labels_N, source.shape is None


def _sanity(run: Run, loaded: LoadedModel | None, labels_N: torch.Tensor | None) -> Sanity | None:
    task = run.task
    if not isinstance(task, Classes):
        return None
    return sanity_of(
        lambda x_BCHW: as_outputs(run.teacher(x_BCHW.to(run.device)))[task.primary],
        run.images_NCHW,
        None if loaded is None else loaded.preprocessing,
        labels_N,
    )


def _hardest(simulation: Simulation, run: Run, bits: Mapping[str, int], left: LeftOut) -> tuple[Hard, ...]:
    """Return the sites that cost most, with what their values look like in the model as it is quantized."""
    graph, images_NCHW = simulation.graph, run.images_NCHW[:LOOKED_AT]
    ranked = sorted(left.sites, key=lambda site: (left.sites[site], site))[:HARDEST]
    ranked = [site for site in ranked if left.gain(site) > 0]
    tensors = {s: graph.parameter(graph.sites[s].node)[1] for s in ranked if graph.sites[s].is_weight}
    found = {site: _hard(simulation, site, bits[site], x, left) for site, x in tensors.items()}
    segments = sites_by_segment(graph, lambda site: site.name in ranked)
    for _, values in walk(graph, images_NCHW, segments, run.device):
        found |= {site: _hard(simulation, site, bits[site], x, left) for site, x in values.items()}
    return tuple(found[site] for site in ranked)


def _hard(simulation: Simulation, site: str, width: int, x: torch.Tensor, left: LeftOut) -> Hard:
    graph: Graph = simulation.graph
    role = graph.sites[site].role
    quantizer = simulation.switches[site].quantizers[str(width)]
    assert isinstance(quantizer, Quantizer)
    channels = 0 if role is Role.WEIGHT else -1
    seen = seen_site(site, quantizer, x)
    return Hard(site, str(role), left.gain(site), reasons(x, role, channels), distribution(seen))
