"""What a model scores: classes and accuracy, or the distance of its outputs; quantized beside floating point."""

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from vitq.activations import forward_all
from vitq.data import ImageSource, load_batches, open_images
from vitq.errors import DataError, ModelError, VitqError
from vitq.graph import Graph
from vitq.models import LoadedModel
from vitq.reconstruct.data import count_held_out
from vitq.reconstruct.objective.distances import relative_square
from vitq.run.events import Events
from vitq.run.run import Run

Forward = Callable[[torch.Tensor], torch.Tensor]
Batches = Iterable[tuple[torch.Tensor, torch.Tensor | None]]
"""Batches x_BCHW with labels_B, or None where there are none."""

AGREEMENT_IMAGES = 256
"""Calibration images on which models are compared where there are no validation images."""
OF_OUTPUTS = ("relative_error", "cosine")
"""Metrics of models whose outputs are no classes."""


@dataclass(frozen=True)
class Metrics:
    """Top-1, top-5 and agreement with a reference in percent; None where there are no labels or no reference.

    Where outputs are no classes, ``relative_error`` |y - r| / |r| and ``cosine`` y·r / |y||r| over all outputs stand
    for agreement with the reference r. With one output a sample and labels 0 and 1, ``top1`` is the sign's accuracy.
    """

    images: int
    top1: float | None = None
    top5: float | None = None
    agreement: float | None = None
    relative_error: float | None = None
    cosine: float | None = None


def refuse(message: str) -> None:
    """Raise ModelError of outputs that cannot be scored."""
    raise ModelError(message)


@torch.no_grad()
def measure(
    forward: Forward,
    batches: Batches,
    device: torch.device,
    reference_N: torch.Tensor | None = None,
    progress: Callable[[int], None] = lambda _: None,
    broken: Callable[[str], None] = refuse,
) -> tuple[Metrics, torch.Tensor]:
    """Run ``forward`` over (x_BCHW, labels_B or None) and return metrics and what the next model is compared with.

    That is the predicted classes (N,) of logits (B, K), -1 where they are not finite, and the outputs themselves of
    other models: (N, 1) for outputs (B,) and (B, 1). ``reference_N`` is what another model gave for the same images, in
    the same order. ``broken`` is told of NaN and infinity. Raises ModelError for outputs that are not one a sample,
    DataError for a label that is no class.
    """
    kept: list[torch.Tensor] = []
    hits: list[torch.Tensor] = []
    lost = 0
    for x_BCHW, labels_B in batches:
        outputs = _per_sample(forward(x_BCHW.to(device)), len(x_BCHW))
        finite_B = outputs.isfinite().flatten(1).all(1)
        lost += int((~finite_B).sum())
        order_B5 = _classes(outputs, finite_B)
        kept.append(outputs if order_B5 is None or outputs.shape[1] == 1 else order_B5[:, 0])
        if labels_B is not None and order_B5 is not None:
            _check_labels(labels_B, outputs.shape[1])
            hits.append(order_B5 == labels_B[:, None])
        progress(len(x_BCHW))
    outputs_N = torch.cat(kept)
    if lost:
        broken(f"the model's outputs hold NaN or infinity for {lost} of {len(outputs_N)} images")
    return compared(_accuracy(hits, len(outputs_N), classes=outputs_N.ndim == 1), outputs_N, reference_N), outputs_N


def compared(metrics: Metrics, outputs_N: torch.Tensor, reference_N: torch.Tensor | None) -> Metrics:
    """Add the agreement or the distance of outputs with those of a reference, both as ``measure`` returns them."""
    if reference_N is None or not len(outputs_N):
        return metrics
    if outputs_N.ndim == 1:
        return replace(metrics, agreement=_percent((outputs_N == reference_N) & (outputs_N >= 0)))
    finite_N = (outputs_N.isfinite() & reference_N.isfinite()).flatten(1).all(1)
    if not bool(finite_N.any()):
        return metrics
    y, r = outputs_N[finite_N].double().flatten(), reference_N[finite_N].double().flatten()
    least = torch.finfo(torch.float64).tiny
    error = float((y - r).norm() / r.norm().clamp(min=least))
    cosine = float((y @ r) / (y.norm() * r.norm()).clamp(min=least))
    return replace(metrics, relative_error=error, cosine=cosine)


def _classes(outputs: torch.Tensor, finite_B: torch.Tensor) -> torch.Tensor | None:
    """The likeliest classes, at most five, -1 where outputs are not finite; None where outputs are no logits."""
    if outputs.ndim != 2:
        return None
    width = outputs.shape[1]
    order_B5 = (outputs > 0).long() if width == 1 else outputs.topk(min(5, width), -1).indices
    return order_B5.masked_fill(~finite_B[:, None], -1)


def _per_sample(outputs: torch.Tensor, count: int) -> torch.Tensor:
    outputs = outputs.float().cpu()
    if outputs.ndim == 0 or len(outputs) != count:
        shape = tuple(outputs.shape)
        raise ModelError(f"the model's output for {count} images has the shape {shape}; its first size must be {count}")
    return outputs[:, None] if outputs.ndim == 1 else outputs


def _check_labels(labels_B: torch.Tensor, width: int) -> None:
    largest, classes = int(labels_B.max()), max(width, 2)
    if largest >= classes:
        hint = "; a model of one output takes 0 and 1, leave labels out for a regression" if width == 1 else ""
        raise DataError(f"label {largest}, but the model has only {classes} classes, from 0{hint}")


def _accuracy(hits: list[torch.Tensor], images: int, classes: bool) -> Metrics:
    if not hits:
        return Metrics(images)
    hit = torch.cat(hits)
    return Metrics(images, _percent(hit[:, 0]), _percent(hit.any(-1)) if classes else None)


def _percent(hit_N: torch.Tensor) -> float:
    return 100 * float(hit_N.double().mean())


@dataclass(frozen=True)
class Seen:
    """What a model gave for the images that it was measured on, which are known by their checksums."""

    images: tuple[int, ...]
    outputs_N: torch.Tensor


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

    def __call__(self, graph: Graph, label: str) -> Metrics:
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
        return self._beside(metrics, seen, self.reference)

    @cached_property
    def source(self) -> ImageSource | None:
        """The validation images, if any; a warning says where they have no labels."""
        if self.validation is None:
            return None
        source = open_images(self.validation)
        if not source.labelled:
            missing = sum(item.label is None for item in source.items)
            text = f"{missing} of {len(source)} validation images ({source.layout}) have no label"
            self.events.warn("no-labels", f"{text}, so there is no accuracy; outputs are compared on them all the same")
        return source

    def _measure(self, graph: Graph, label: str, strict: bool) -> tuple[Metrics, Seen]:
        images: list[int] = []
        batches, total = self._batches()
        with self.events.task(f"evaluate {label}", total) as task:
            metrics, outputs_N = measure(
                graph,
                _noted(batches, images),
                self.device,
                progress=task.advance,
                broken=refuse if strict else lambda text: self.events.warn("not-finite", f"{label}: {text}"),
            )
        if self.source is not None and self.source.labelled and metrics.top1 is None:
            self.events.warn("no-classes", "the model's output is no row of class scores, so labels are not used")
        return metrics, Seen(tuple(images), outputs_N)

    def _batches(self) -> tuple[Batches, int]:
        if self.source is None:
            x_NCHW = self.x_NCHW[:AGREEMENT_IMAGES]
            return ((x_BCHW, None) for x_BCHW in x_NCHW.split(32)), len(x_NCHW)
        preprocessing, classes = self.loaded.preprocessing, self.loaded.num_classes
        return load_batches(self.source, preprocessing, num_classes=classes, warn=self.events.warn), len(self.source)

    def _beside(self, metrics: Metrics, seen: Seen, reference: Seen) -> Metrics:
        """Compare the outputs of the same images, whatever their order; files may change while a run works."""
        if seen.images == reference.images:
            return compared(metrics, seen.outputs_N, reference.outputs_N)
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
        return compared(metrics, seen.outputs_N[mine], reference.outputs_N[theirs])


@torch.no_grad()
def segment_errors(run: Run, images: int = 64) -> dict[str, float]:
    """Return, per block, the relative squared error of the student's activations.

    They are of the last ``images`` calibration images, but at most of the fifth that is never trained on.
    """
    student = teacher = run.images_NCHW[-max(count_held_out(len(run.images_NCHW), images), 1) :]
    errors: dict[str, float] = {}
    for span in run.teacher.spans("block"):
        student = forward_all(run.student.segment(span.start, span.end), student, run.device)
        teacher = forward_all(run.teacher.segment(span.start, span.end), teacher, run.device)
        errors[span.name] = float(relative_square(student, teacher))
    return errors


def _noted(batches: Batches, images: list[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    for x_BCHW, labels_B in batches:
        images.extend(zlib.crc32(x_CHW.contiguous().numpy()) for x_CHW in x_BCHW)
        yield x_BCHW, labels_B
