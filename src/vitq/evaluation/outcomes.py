"""What a classifier did on each labelled image: its class, how sure it was, whether that was right."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from vitq.graph.outputs import as_outputs
from vitq.tasks import task_for
from vitq.tasks.classes import Classes


@dataclass(frozen=True)
class Outcomes:
    """One entry an image, in the order of the images: label, likeliest class (-1 where an output is not finite), its
    probability, and whether the label is among the five likeliest.
    """

    labels_N: torch.Tensor
    predicted_N: torch.Tensor
    confidence_N: torch.Tensor
    among_five_N: torch.Tensor

    @property
    def correct_N(self) -> torch.Tensor:
        """Whether the likeliest class is the label."""
        return self.predicted_N == self.labels_N


@dataclass
class Watch:
    """Notes what ``measure`` runs: give it ``forward`` and ``batches`` of this object, which pass on those of others.

    Of models whose task is not to name one of several classes, nothing is noted.
    """

    task: str | None = None
    labels: list[torch.Tensor] = field(default_factory=list)
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def forward(self, forward: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Any]:
        """Return ``forward``, whose outputs are noted."""

        def noted(x_BCHW: torch.Tensor) -> Any:
            given = forward(x_BCHW)
            outputs = as_outputs(given)
            task = task_for({name: tuple(y.shape[1:]) for name, y in outputs.items()}, self.task)
            if isinstance(task, Classes) and outputs[task.primary].shape[-1] > 1:
                self._note(outputs[task.primary].detach().float().cpu())
            return given

        return noted

    def batches(self, batches: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield ``batches``, whose labels are noted."""
        for x_BCHW, labels_B in batches:
            self.labels.append(labels_B)
            yield x_BCHW, labels_B

    def outcomes(self) -> Outcomes | None:
        """Return what was noted; None where it was nothing, or labels are no classes."""
        if not self.seen or len(self.seen) != len(self.labels) or self.labels[0].ndim != 1:
            return None
        labels_N = torch.cat(self.labels)
        order_N5, confidence_N, finite_N = (torch.cat(part) for part in zip(*self.seen, strict=True))
        order_N5 = order_N5.masked_fill(~finite_N[:, None], -1)
        return Outcomes(labels_N, order_N5[:, 0], confidence_N, (order_N5 == labels_N[:, None]).any(-1))

    def _note(self, logits_BK: torch.Tensor) -> None:
        order_B5 = logits_BK.topk(min(5, logits_BK.shape[-1]), -1).indices
        finite_B = logits_BK.isfinite().all(-1)
        probability_B = logits_BK.softmax(-1).gather(-1, order_B5[:, :1])[:, 0].nan_to_num(0.0)
        self.seen.append((order_B5, probability_B, finite_B))
