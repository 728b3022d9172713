"""Accuracy of a model, in percent, and how often it agrees with another."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

Forward = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Metrics:
    """Top-1, top-5 and agreement with a reference in percent; None where there are no labels or no reference."""

    images: int
    top1: float | None = None
    top5: float | None = None
    agreement: float | None = None


@torch.no_grad()
def measure(
    forward: Forward,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor | None]],
    device: torch.device,
    reference_N: torch.Tensor | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[Metrics, torch.Tensor]:
    """Run ``forward`` over (x_BCHW, labels_B or None) and return metrics and the predicted classes.

    ``reference_N`` holds the classes that another model predicted for the same images, in the same order.
    """
    predicted: list[torch.Tensor] = []
    hits: list[torch.Tensor] = []
    for x_BCHW, labels_B in batches:
        logits_BK = forward(x_BCHW.to(device)).float().cpu()
        order_B5 = logits_BK.topk(min(5, logits_BK.shape[-1]), -1).indices
        predicted.append(order_B5[:, 0])
        if labels_B is not None:
            hits.append(order_B5 == labels_B[:, None])
        progress(len(x_BCHW))
    classes_N = torch.cat(predicted)
    top1 = top5 = None
    if hits:
        hit = torch.cat(hits)
        top1, top5 = _percent(hit[:, 0]), _percent(hit.any(-1))
    agreement = None if reference_N is None else _percent(classes_N == reference_N)
    return Metrics(len(classes_N), top1, top5, agreement), classes_N


def _percent(hit_N: torch.Tensor) -> float:
    return 100 * float(hit_N.double().mean())
