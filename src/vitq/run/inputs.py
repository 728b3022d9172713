"""What a verb starts from: a model and calibration images, and the run on both."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitq.bits import Bits
from vitq.data import ImageSource, draw_calibration, load_batches, open_images
from vitq.errors import ArgumentError, GraphError
from vitq.graph import Graph, capture
from vitq.graph.capture import is_random, without_autocast
from vitq.graph.outputs import Outputs, as_outputs
from vitq.models import LoadedModel, Preprocessing, load_model, settle
from vitq.models.outputs import Warn
from vitq.run.checkpoints import Checkpoints
from vitq.run.events import Events
from vitq.run.run import Run
from vitq.run.synthetic import generated_images, is_generated
from vitq.tasks import task_for


def load_source(
    model: str | nn.Module | LoadedModel,
    weights: str | Path | None,
    num_classes: int | None,
    preprocessing: Preprocessing | Mapping[str, Any] | None,
    task: str | None = None,
) -> LoadedModel:
    """Load a model by name or folder, or take it as it is; ``preprocessing`` replaces values of its own.

    ``task`` says what its outputs mean.
    """
    if isinstance(model, LoadedModel):
        if weights is not None or num_classes is not None:
            raise ArgumentError("weights and num_classes are for load_model; this model is loaded already")
        loaded = replace(model, preprocessing=model.preprocessing.changed(preprocessing))
    else:
        loaded = load_model(model, weights=weights, num_classes=num_classes, preprocessing=preprocessing, task=task)
    return loaded if task is None else replace(loaded, task=task)


def settle_for(source: ImageSource, loaded: LoadedModel, warn: Warn) -> LoadedModel:
    """Settle the model on the first images of a source, prepared as they will be."""
    x_BCHW, _ = next(load_batches(source, loaded.preprocessing, batch_size=2, warn=warn))
    return settle(loaded, x_BCHW, warn)


def capture_checked(
    loaded: LoadedModel, x_NCHW: torch.Tensor, device: torch.device, warn: Warn = lambda *_: None
) -> Graph:
    """Capture the model on ``device``; ``warn`` is told where it turns on autocast.

    Raises ModelError where the model is random, and GraphError where the graph does not compute what the model
    computes, in float32 where it turns on autocast.
    """
    x_2CHW = x_NCHW[:2]
    graph = capture(loaded.module, x_2CHW)
    with torch.no_grad(), without_autocast() as ignored:
        expected, got = as_outputs(loaded.module(x_2CHW)), as_outputs(graph(x_2CHW))
        if not _same(expected, got, loaded.task):
            again = as_outputs(loaded.module(x_2CHW))
            if not all(torch.equal(y, again[name]) for name, y in expected.items()):
                raise is_random(loaded.name)
            raise GraphError(
                f"the captured graph of {loaded.name} does not compute what the model computes; please report it"
            )
    if ignored:
        types = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in ignored))
        warn("autocast", f"{loaded.name} turns on autocast ({types}); it is quantized from what it computes in float32")
    graph.to(device)
    return graph


def _same(expected: Outputs, got: Outputs, name: str | None) -> bool:
    """Whether outputs are close; queries of a detector in any order, which may hang on the last digit of a score."""
    if {key: y.shape for key, y in expected.items()} != {key: y.shape for key, y in got.items()}:
        return False
    task = task_for({key: tuple(y.shape[1:]) for key, y in expected.items()}, name)
    got = task.matched_to(expected, got)
    return all(_close(y, got[key]) for key, y in expected.items())


def _close(expected: torch.Tensor, got: torch.Tensor) -> bool:
    return torch.allclose(expected, got, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def draw_images(
    loaded: LoadedModel,
    images: Any,
    take_size: bool,
    limit: int,
    views: int,
    seed: int,
    events: Events,
    device: torch.device | None = None,
) -> tuple[LoadedModel, torch.Tensor]:
    """Draw calibration images x_NCHW with a seed, show how they are preprocessed, settle the model's output on them.

    "synthetic" and "noise" are made, on ``device`` (by default the CPU). With ``take_size`` images that are
    preprocessed already set the model's input size.
    """
    made = is_generated(images)
    source = None if made else open_images(images, labels=False, limit=limit)
    if source is not None and take_size and source.shape is not None:
        loaded = replace(loaded, preprocessing=loaded.preprocessing.of_tensors(source.shape))
    events.show(f"{loaded.name}: {loaded.preprocessing.describe()}")
    if source is None:
        place = device or torch.device("cpu")
        x_NCHW = generated_images(loaded, images, limit, views, seed, place, events)
    else:
        x_NCHW = draw_calibration(source, loaded.preprocessing, limit=limit, views=views, seed=seed, warn=events.warn)
    loaded = settle(loaded, x_NCHW, events.warn)
    events.show(f"{loaded.name}: {loaded.meaning}")
    return loaded, x_NCHW


def load_with_images(
    model: str | nn.Module | LoadedModel,
    images: Any,
    weights: str | Path | None,
    num_classes: int | None,
    preprocessing: Preprocessing | Mapping[str, Any] | None,
    *,
    limit: int,
    seed: int,
    events: Events,
    device: torch.device | None = None,
    views: int = 1,
    task: str | None = None,
) -> tuple[LoadedModel, torch.Tensor]:
    """Return a model by ``load_source`` and images x_NCHW for it by ``draw_images``, which may set its input size."""
    loaded = load_source(model, weights, num_classes, preprocessing, task)
    return draw_images(loaded, images, preprocessing is None, limit, views, seed, events, device)


def start_run(
    loaded: LoadedModel,
    x_NCHW: torch.Tensor,
    bits: Bits,
    recipe: str,
    *,
    seed: int,
    device: torch.device,
    events: Events,
    checkpoints: Checkpoints | None = None,
) -> Run:
    """Capture the model and return the run of a recipe, by its name, on it; errors as of ``capture_checked``."""
    teacher = capture_checked(loaded, x_NCHW, device, events.warn)
    return Run(
        teacher,
        teacher.clone(),
        x_NCHW,
        bits,
        seed,
        device,
        events,
        checkpoints or Checkpoints(),
        recipe=recipe,
        task_name=loaded.task,
    )
