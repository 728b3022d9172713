"""Dense maps: for each pixel the logits of classes, or one number."""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch.nn import functional as F

from vitq.errors import DataError
from vitq.graph.outputs import Outputs
from vitq.tasks.distances import divergence, nearness, relative_square
from vitq.tasks.maps import depth_errors, iou_at_half, mean_iou
from vitq.tasks.task import Shapes, Task, register_task

NAMES: tuple[str, ...] = ("logits", "out", "predicted_depth")
"""Names of outputs that count first."""
IGNORED = 255
"""Class of a pixel that does not count, in a model of at most 255 classes; so is what lies outside of the picture."""
EIGHT_BITS = torch.int16
"""Type of maps that were 8-bit pictures: of numbers they say 0 to 1."""


@register_task("dense")
@dataclass(frozen=True)
class Dense(Task):
    """Logits (B, K, H, W), compared by KL for each pixel, or numbers (B, 1, H, W) and (B, H, W), by relative error.

    Of several outputs it is the one called ``logits``, ``out`` or ``predicted_depth``, else the first map; others are
    compared by relative error. Maps are enlarged to the images' size before they are scored (bilinear).
    """

    count: int = 1
    labels: ClassVar[str] = "a map with a class or a number for each of its pixels"
    label_axes: ClassVar[int] = 4
    agrees: ClassVar[str] = "the class of pixels"

    @classmethod
    def fit(cls, shapes: Shapes) -> Self | None:
        """Fit a model that returns a map."""
        maps = {name: shape for name, shape in shapes.items() if len(shape) in (2, 3)}
        names = [name for name in NAMES if name in maps] or list(maps)
        if not names:
            return None
        shape = maps[names[0]]
        return cls(names[0], shape[0] if len(shape) == 3 else 1)

    @property
    def metric(self) -> str:  # type: ignore[override]
        """Return the name of the score that counts first."""
        return "miou" if self.count > 1 else "mae"

    def describe(self, shapes: Shapes) -> str:
        """Return what a map holds."""
        return f"maps of {self.count} classes" if self.count > 1 else "maps of numbers"

    def classes(self, shapes: Shapes) -> int | None:
        """Return how many classes a pixel may have."""
        return self.count if self.count > 1 else None

    def distance(self, outputs: Outputs, reference: Outputs, temperature: float = 1.0) -> torch.Tensor:
        """Return T² · KL(reference || outputs) of the logits, mean over pixels, and relative squared errors of others.

        Maps of numbers have the relative squared error alone.
        """
        terms = [
            divergence(_rows(outputs[name]), _rows(target), temperature)
            if self._is_classes(name)
            else relative_square(outputs[name], target)
            for name, target in reference.items()
        ]
        return torch.stack(terms).sum()

    def draw(self, reference: Outputs, generator: torch.Generator) -> Outputs:
        """Draw a class (N, 1, H, W) for each pixel from its prediction, and numbers as every task does."""
        drawn = {}
        for name, target in reference.items():
            if self._is_classes(name):
                rows = torch.multinomial(_rows(target).float().softmax(-1).cpu(), 1, generator=generator)
                drawn[name] = rows.view(len(target), 1, *target.shape[2:]).to(target.device)
            else:
                drawn |= super().draw({name: target}, generator)
        return drawn

    def log_likelihood(self, outputs: Outputs, drawn: Outputs) -> torch.Tensor:
        """Return Σ log p(y) / √P over the P pixels of each image, whose Fisher is the curvature of ``distance``."""
        terms = []
        for name, draws in drawn.items():
            if self._is_classes(name) and not draws.is_floating_point():
                own = outputs[name].log_softmax(1).gather(1, draws).flatten(1)
                terms.append(own.sum(1, keepdim=True) / own.shape[1] ** 0.5)
            else:
                terms.append(super().log_likelihood(outputs, {name: draws}))
        return torch.stack(terms).sum(0)

    def summary(self, outputs: Outputs) -> Outputs:
        """Return the likeliest class of each pixel (N, 1, H, W), -1 where logits are not finite; numbers stay."""
        return {name: _likeliest(y) if self._is_classes(name) else y for name, y in outputs.items()}

    def summary_at(self, outputs: Outputs, size: tuple[int, int]) -> Outputs:
        """Return the summary of the primary maps at the size of the images; one image at a time, for they are large."""
        kept = self.summary({name: y for name, y in outputs.items() if name != self.primary})
        maps = outputs[self.primary]
        planes = maps if maps.ndim == 4 else maps[:, None]
        rows = [F.interpolate(one, size, mode="bilinear", align_corners=False) for one in planes.split(1)]
        own = [_likeliest(one) if self.count > 1 else one for one in rows]
        return {self.primary: torch.cat(own), **kept}

    def require_labels(self, labels_B: torch.Tensor, outputs: Outputs) -> None:
        """Raise DataError for a class that the model does not have."""
        if self.count == 1:
            return
        if labels_B.is_floating_point():
            raise DataError("the maps hold numbers that are not whole, and the model returns classes of pixels")
        known = labels_B[(labels_B >= 0) & ~_ignored(labels_B, self.count)]
        if len(known) and int(known.max()) >= self.count:
            raise DataError(
                f"a map holds class {int(known.max())}, but the model has only {self.count} classes, from 0; "
                f"{IGNORED} is ignored"
            )

    def score(self, summary: Outputs, labels_N: torch.Tensor) -> dict[str, float]:
        """Return ``miou`` and ``pixels`` in percent of classes; of numbers errors by ``depth_errors``."""
        own_N1HW = summary[self.primary]
        if self.count == 1:
            labels_N1HW = labels_N.float()
            if not labels_N.is_floating_point():
                labels_N1HW = labels_N1HW.masked_fill(labels_N < 0, torch.nan)
            return depth_errors(own_N1HW, labels_N1HW / 255 if labels_N.dtype is EIGHT_BITS else labels_N1HW)
        counted = (labels_N >= 0) & ~_ignored(labels_N, self.count)
        miou, pixels = mean_iou(own_N1HW, labels_N, counted, self.count)
        return {"miou": miou, "pixels": pixels}

    def agreement(self, summary: Outputs, reference: Outputs) -> dict[str, float]:
        """Return ``agreement``, pixels of the same class, in percent, and ``miou_agreement``; of numbers their
        ``relative_error``, ``cosine``, ``mae_agreement``, and, from 0 to 1, ``iou_agreement`` of what is above .5.
        """
        mine, theirs = summary[self.primary], reference[self.primary]
        if self.count > 1:
            miou, pixels = mean_iou(mine, theirs, theirs >= 0, self.count)
            return {"agreement": pixels, "miou_agreement": miou}
        found = nearness(mine, theirs)
        finite = mine.isfinite() & theirs.isfinite()
        if not bool(finite.any()):
            return found
        found["mae_agreement"] = float((mine - theirs)[finite].abs().double().mean())
        if float(theirs[finite].min()) >= 0 and float(theirs[finite].max()) <= 1:
            found["iou_agreement"] = iou_at_half(mine, theirs)
        return found

    def _is_classes(self, name: str) -> bool:
        return name == self.primary and self.count > 1


def _rows(maps_BKHW: torch.Tensor) -> torch.Tensor:
    """Return the logits of each pixel: (B · H · W, K)."""
    return maps_BKHW.flatten(2).transpose(1, 2).flatten(0, 1)


def _likeliest(maps_BKHW: torch.Tensor) -> torch.Tensor:
    classes_B1HW = maps_BKHW.argmax(1, keepdim=True).to(torch.int16)
    return classes_B1HW.masked_fill(~maps_BKHW.isfinite().all(1, keepdim=True), -1)


def _ignored(labels: torch.Tensor, count: int) -> torch.Tensor:
    return (labels == IGNORED) if count <= IGNORED else torch.zeros_like(labels, dtype=torch.bool)
