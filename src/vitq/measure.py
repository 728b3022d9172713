"""What a model's outputs say: accuracy and agreement in percent where they are classes, else their distance."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch

from vitq.errors import DataError, ModelError

Forward = Callable[[torch.Tensor], torch.Tensor]

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
    batches: Iterable[tuple[torch.Tensor, torch.Tensor | None]],
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
