"""Features: rows, tokens or maps that others read; near is what points the same way."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from vitq.errors import DataError
from vitq.graph.outputs import Outputs
from vitq.tasks.probes import neighbours_accuracy, pooled, probe_accuracy
from vitq.tasks.task import Shapes, register_task
from vitq.tasks.values import Values


@register_task("features")
@dataclass(frozen=True)
class Features(Values):
    """Tensors of any shape, compared by relative error and cosine; the primary one tells classes of images apart.

    Training compares by the relative squared error of each, as ``Values`` does.
    """

    labels: ClassVar[str] = "the number of its class"
    metric: ClassVar[str] = "knn"

    def describe(self, shapes: Shapes) -> str:
        """Return what is scored."""
        return f"features, of which '{self.primary}' is scored"

    def require_labels(self, labels_B: torch.Tensor, outputs: Outputs) -> None:
        """Raise DataError where there could be no classes to tell apart."""
        if labels_B.is_floating_point():
            raise DataError("task 'features' takes the number of a class for each image, not other numbers")

    def score(self, summary: Outputs, labels_N: torch.Tensor) -> dict[str, float]:
        """Return ``knn`` and ``linear`` in percent: nearest neighbours, each image left out, and a linear probe.

        Raises DataError for fewer than two images of a class, or one class.
        """
        counts = labels_N.unique(return_counts=True)[1]
        if len(counts) < 2 or int(counts.max()) < 2:
            raise DataError(
                f"{len(labels_N)} images of {len(counts)} classes cannot be told apart by their neighbours; "
                "features need two classes and two images of one at least"
            )
        x_NC = pooled(summary[self.primary])
        finite = torch.nan_to_num(x_NC, nan=0.0, posinf=0.0, neginf=0.0)
        places_N = labels_N.unique(return_inverse=True)[1]
        return {"knn": neighbours_accuracy(finite, places_N), "linear": probe_accuracy(finite, places_N)}
