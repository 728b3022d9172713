"""How a run is scored: teacher, then student, on the same images."""

from dataclasses import dataclass
from typing import Any

import torch

from vitq.data import load_batches, open_images
from vitq.events import Events
from vitq.graph import Graph
from vitq.measure import Metrics, measure
from vitq.models import LoadedModel

AGREEMENT_IMAGES = 256


@dataclass
class Judge:
    """Measures teacher, then student, on validation images; without any, their agreement on calibration images."""

    loaded: LoadedModel
    validation: Any
    x_NCHW: torch.Tensor
    device: torch.device
    events: Events
    reference_N: torch.Tensor | None = None

    def __call__(self, graph: Graph, label: str) -> Metrics:
        """Measure ``graph``; the first one measured becomes the reference of the next."""
        if self.validation is None:
            batches: Any = ((x, None) for x in self.x_NCHW[:AGREEMENT_IMAGES].split(32))
            total = min(len(self.x_NCHW), AGREEMENT_IMAGES)
        else:
            source = open_images(self.validation)
            total = len(source)
            batches = load_batches(
                source, self.loaded.preprocessing, num_classes=self.loaded.num_classes, warn=self.events.warn
            )
        with self.events.task(f"evaluate {label}", total) as task:
            metrics, classes_N = measure(graph, batches, self.device, self.reference_N, task.advance)
        if self.reference_N is None:
            self.reference_N = classes_N
        return metrics
