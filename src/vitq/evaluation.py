"""What a model scores on labelled images, and how near its outputs are to a reference's; each task says how."""

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from vitq.data import ImageSource, load_batches, load_labelled, open_images
from vitq.errors import DataError, ModelError, VitqError
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
AGREEMENT_IMAGES = 256
"""Calibration images on which models are compared where there are no validation images."""
OWN = ("top1", "top5", "agreement", "relative_error", "cosine")
"""Metrics that have a field of their own."""
OF_OUTPUTS = ("relative_error", "cosine", "outputs")
"""Metrics that only a comparison with a reference has."""


@dataclass(frozen=True)
class Metrics:
    """What a task scores; None where there are no labels, no reference, or the task has no such metric.

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


@dataclass(frozen=True)
class Seen:
    """What a model gave for the images that it was measured on, which are known by their checksums."""

    images: tuple[int, ...]
    summary: Summary
    labels_N: torch.Tensor | None = None
    """Their classes, where every one has one."""


@dataclass
class Evaluator:
    """Measures teacher, then student, on validation images; without any, their agreement on calibration images.

    Validation images are opened once, before the work, and what can be read only once is kept.
    """

    loaded: LoadedModel
    validation: Any
    x_NCHW: torch.Tensor
    device: torch.device
    events: Events
    reference: Seen | None = None
    same_images: bool = False
    """Whether the model that was measured last saw the images of the first, in their order."""

    def __call__(self, graph: Forward, label: str) -> Metrics:
        """Measure ``graph``; the first one measured becomes the reference of the next.

        Raises VitqError where the first cannot be measured. By the second, the work is done: what goes wrong is a
        warning, and its metrics lack what could not be measured.
        """
        if self.reference is None:
            metrics, self.reference = self._measure(graph, label, strict=True)
            return metrics
        try:
            metrics, seen = self._measure(graph, label, strict=False)
        except (VitqError, OSError) as error:
            self.events.warn("not-measured", f"the {label} model could not be measured: {error}")
            return Metrics(0)
        self.same_images = seen.images == self.reference.images
        return self._beside(metrics, seen, self.reference)

    @cached_property
    def source(self) -> ImageSource | None:
        """The validation images, if any; a warning says where they have no labels."""
        if self.validation is None:
            return None
        source = open_images(self.validation)
        if missing := source.unlabelled:
            text = f"{missing} of {len(source)} validation images ({source.layout}) have no label"
            self.events.warn("no-labels", f"{text}, so there is no accuracy; outputs are compared on them all the same")
        return source

    def _measure(self, graph: Forward, label: str, strict: bool) -> tuple[Metrics, Seen]:
        images, labels = list[int](), list[torch.Tensor]()
        batches, total = self._batches()
        with self.events.task(f"evaluate {label}", total, unit="images") as bar:
            metrics, summary = measure(
                graph,
                _noted(batches, images, labels),
                self.device,
                progress=bar.advance,
                broken=refuse if strict else lambda text: self.events.warn("not-finite", f"{label}: {text}"),
                task=self.loaded.task,
            )
        if self.source is not None and self.source.labelled and metrics.top1 is None and not metrics.scores:
            text = "the model's output is no row of class scores, so labels are not used; name what it is with task"
            self.events.warn("no-classes", text)
        labels_N = torch.cat(labels) if labels else None
        whole = labels_N is not None and len(labels_N) == len(images)
        return metrics, Seen(tuple(images), summary, labels_N if whole else None)

    def _batches(self) -> tuple[Batches, int]:
        if self.source is None:
            x_NCHW = self.x_NCHW[:AGREEMENT_IMAGES]
            return ((x_BCHW, None) for x_BCHW in x_NCHW.split(32)), len(x_NCHW)
        preprocessing, classes = self.loaded.preprocessing, self.loaded.num_classes
        batches = load_batches(self.source, preprocessing, num_classes=classes, warn=self.events.warn, workers=None)
        return batches, len(self.source)

    def _beside(self, metrics: Metrics, seen: Seen, reference: Seen) -> Metrics:
        """Compare the outputs of the same images, whatever their order; files may change while a run works."""
        if seen.images == reference.images:
            return compared(metrics, seen.summary, reference.summary)
        places: dict[int, list[int]] = defaultdict(list)
        for place, image in enumerate(reference.images):
            places[image].append(place)
        pairs = [(place, places[image].pop(0)) for place, image in enumerate(seen.images) if places[image]]
        self.events.warn(
            "changed-images",
            f"{len(seen.images) - len(pairs)} of {len(seen.images)} validation images are others than those that the "
            "original was measured on; outputs are compared on the rest",
        )
        if not pairs:
            return metrics
        mine, theirs = (torch.tensor(places) for places in zip(*pairs, strict=True))
        return compared(metrics, seen.summary.rows(mine), reference.summary.rows(theirs))


def _noted(
    batches: Batches, images: list[int], labels: list[torch.Tensor]
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    for x_BCHW, labels_B in batches:
        images.extend(zlib.crc32(x_CHW.contiguous().numpy()) for x_CHW in x_BCHW)
        labels += [labels_B] if labels_B is not None and labels_B.ndim == 1 else []
        yield x_BCHW, labels_B
