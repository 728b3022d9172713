"""What a model scores on labelled images, and how near its outputs are to a reference's; each task says how."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from vitq.data import load_labelled, open_images
from vitq.errors import DataError, ModelError
from vitq.graph.outputs import Outputs, as_outputs
from vitq.models import LoadedModel
from vitq.run.events import Events
from vitq.run.inputs import settle_for
from vitq.tasks import Task, name_of, task_for
from vitq.tasks.distances import nearness

Forward = Callable[[torch.Tensor], torch.Tensor | Outputs]
Batches = Iterable[tuple[torch.Tensor, torch.Tensor | None]]
"""Batches x_BCHW with labels_B, or None where there are none."""

KINDS = {1: "classes", 3: "boxes", 4: "maps"}
"""What a batch of labels is, by its number of axes."""
OWN = ("top1", "top5", "agreement", "relative_error", "cosine")
"""Metrics that have a field of their own."""
OF_OUTPUTS = ("relative_error", "cosine", "outputs")
"""Metrics that only a comparison with a reference has."""


@dataclass(frozen=True)
class Metrics:
    """A task's scores; None where there are no labels, no reference, or the task has no such metric.

    Of classes: top-1, top-5 and agreement with a reference in percent; with one output a sample and labels 0 and 1,
    ``top1`` is the sign's accuracy. Where outputs are no classes, ``relative_error`` |y - r| / |r| and ``cosine``
    y·r / |y||r| stand for agreement with the reference r, of several outputs those of the worst. ``scores`` are the
    metrics of other tasks by name; ``outputs`` has relative error and cosine of each of several outputs.
    """

    images: int
    top1: float | None = None
    top5: float | None = None
    agreement: float | None = None
    relative_error: float | None = None
    cosine: float | None = None
    scores: Mapping[str, float] | None = None
    outputs: Mapping[str, Mapping[str, float]] | None = None

    def with_scores(self, found: Mapping[str, float]) -> "Metrics":
        """Return these metrics with what a task found; what has no field of its own joins ``scores``."""
        own: dict[str, Any] = {name: value for name, value in found.items() if name in OWN}
        others = {name: value for name, value in found.items() if name not in OWN}
        return replace(self, **own, scores={**(self.scores or {}), **others} or None)


@dataclass(frozen=True)
class Summary:
    """What a task keeps of a model's outputs, one row an image."""

    task: Task
    outputs: Outputs

    def rows(self, places: torch.Tensor) -> "Summary":
        """Return the rows of some images."""
        return Summary(self.task, {name: y[places] for name, y in self.outputs.items()})


def refuse(message: str) -> None:
    """Raise ModelError of outputs that cannot be scored."""
    raise ModelError(message)


@torch.no_grad()
def measure(
    forward: Forward,
    batches: Batches,
    device: torch.device,
    reference: Summary | None = None,
    progress: Callable[[int], None] = lambda _: None,
    broken: Callable[[str], None] = refuse,
    task: str | None = None,
) -> tuple[Metrics, Summary]:
    """Run ``forward`` over (x_BCHW, labels_B or None) and return metrics and what the next model is compared with.

    ``task`` says what the outputs mean; without it, what they look like. ``reference`` is what another model gave for
    the same images, in the same order. ``broken`` is told of NaN and infinity. Raises ModelError for outputs that are
    not one a sample, DataError for a label that the task does not know.
    """
    kept: list[Outputs] = []
    labelled: list[tuple[Outputs, torch.Tensor]] = []
    found: Task | None = None
    lost = 0
    for x_BCHW, labels_B in batches:
        outputs = {name: _per_sample(y, len(x_BCHW)) for name, y in as_outputs(forward(x_BCHW.to(device))).items()}
        found = found or task_for({name: tuple(y.shape[1:]) for name, y in outputs.items()}, task)
        finite_B = torch.stack([y.isfinite().flatten(1).all(1) for y in outputs.values()]).all(0)
        lost += int((~finite_B).sum())
        kept.append(found.summary_at(outputs, (x_BCHW.shape[-2], x_BCHW.shape[-1])))
        if labels_B is not None and found.labels:
            _require_kind(labels_B, found)
            found.require_labels(labels_B, outputs)
            labelled.append((kept[-1], labels_B))
        progress(len(x_BCHW))
    if found is None:
        raise ModelError("there are no images to measure a model on")
    summary = Summary(found, _joined(kept))
    metrics = Metrics(len(summary.outputs[found.primary]))
    if lost:
        broken(f"the model's outputs hold NaN or infinity for {lost} of {metrics.images} images")
    if labelled:
        parts, labels = zip(*labelled, strict=True)
        metrics = metrics.with_scores(found.score(_joined(parts), torch.cat(labels)))
    return compared(metrics, summary, reference), summary


def measure_loaded(
    loaded: LoadedModel,
    images: Any,
    device: torch.device,
    events: Events,
    *,
    take_size: bool,
    limit: int | None,
    batch_size: int,
    workers: int | None = None,
) -> Metrics:
    """Return the metrics of a floating-point model on ``limit`` labelled images, None for all.

    With ``take_size`` images that are preprocessed already set the model's input size. Raises DataError for images or
    labels that cannot be used, ModelError for outputs that cannot be scored.
    """
    source = open_images(images)
    if take_size and source.shape and source.shape[0] != loaded.preprocessing.input_size[0]:
        loaded = replace(loaded, preprocessing=loaded.preprocessing.of_tensors(source.shape))
    loaded = settle_for(source, loaded, events.warn)
    events.show(f"{loaded.name}: {loaded.meaning}")
    batches = load_labelled(
        source,
        loaded.preprocessing,
        limit,
        batch_size=batch_size,
        num_classes=loaded.num_classes,
        warn=events.warn,
        workers=workers,
    )
    with events.task("evaluate", len(source) if limit is None else min(limit, len(source)), unit="images") as bar:
        return measure(loaded.module.to(device), batches, device, progress=bar.advance, task=loaded.task)[0]


def compared(metrics: Metrics, summary: Summary, reference: Summary | None) -> Metrics:
    """Add how near outputs are to those of a reference, both as ``measure`` returns them."""
    if reference is None or metrics.images == 0:
        return metrics
    metrics = metrics.with_scores(summary.task.agreement(summary.outputs, reference.outputs))
    if len(summary.outputs) == 1:
        return metrics
    floats = {name: y for name, y in summary.outputs.items() if y.is_floating_point()}
    near = {name: found for name, y in floats.items() if (found := nearness(y, reference.outputs[name]))}
    return replace(metrics, outputs=near or None)


def _joined(parts: Sequence[Outputs]) -> Outputs:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _require_kind(labels_B: torch.Tensor, task: Task) -> None:
    """Raise DataError for labels of another kind than the task's: classes for maps, boxes for classes."""
    if labels_B.ndim != task.label_axes:
        given = KINDS.get(labels_B.ndim, "something else")
        raise DataError(
            f"the labels are {given}, and task '{name_of(task)}' takes of each image {task.labels}; "
            "give such labels, or another task"
        )


def _per_sample(outputs: torch.Tensor, count: int) -> torch.Tensor:
    outputs = outputs.float().cpu()
    if outputs.ndim == 0 or len(outputs) != count:
        shape = tuple(outputs.shape)
        raise ModelError(f"the model's output for {count} images has the shape {shape}; its first size must be {count}")
    return outputs[:, None] if outputs.ndim == 1 else outputs
