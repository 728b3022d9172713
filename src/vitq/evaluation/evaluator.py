"""Teacher and student measured on the same images, one after the other, during a run."""

import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from vitq.data import ImageSource, load_batches, open_images
from vitq.errors import VitqError
from vitq.evaluation.measure import Batches, Forward, Metrics, Summary, compared, measure, refuse
from vitq.models import LoadedModel
from vitq.run.events import Events

AGREEMENT_IMAGES = 256
"""Calibration images on which models are compared where there are no validation images."""


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
