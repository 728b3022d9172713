"""Boxes of a set predictor: for each query the logits of classes and one box."""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from vitq.errors import DataError
from vitq.graph.outputs import Outputs
from vitq.tasks.distances import relative_square
from vitq.tasks.mean_precision import mean_precision
from vitq.tasks.sets import corners, iou, matching
from vitq.tasks.task import Shapes, Task, register_task

BOX_WEIGHT = 5.0
"""Of the distance of boxes beside that of classes. Source: DETR (Carion et al. 2020), its matching cost."""


@register_task("boxes")
@dataclass(frozen=True)
class Boxes(Task):
    """Logits (B, Q, K + 1), whose last class is "no object", and boxes (B, Q, 4): centre, width and height, 0 to 1.

    So are DETR, YOLOS and their kin. Queries are matched to those of the reference first: a set has no order. Other
    outputs are compared by relative error.
    """

    boxes: str = "pred_boxes"
    labels: ClassVar[str] = "boxes with their categories (a COCO json, or mappings of boxes and labels)"
    label_axes: ClassVar[int] = 3
    agrees: ClassVar[str] = "the class of matched boxes"
    metric: ClassVar[str] = "map"

    @classmethod
    def fit(cls, shapes: Shapes) -> Self | None:
        """Fit a model that returns rows of classes, and as many rows of four, which are called boxes."""
        boxes = [name for name, shape in shapes.items() if len(shape) == 2 and shape[1] == 4 and "box" in name]
        for box in sorted(boxes, key=lambda name: name != "pred_boxes"):
            rows = [name for name, shape in shapes.items() if len(shape) == 2 and shape[0] == shapes[box][0]]
            named = [name for name in rows if name != box and name.endswith(("logits", "scores", "classes"))]
            if named:
                return cls("logits" if "logits" in named else named[0], box)
        return None

    def describe(self, shapes: Shapes) -> str:
        """Return how many boxes there are, and of how many classes."""
        queries, columns = shapes[self.primary]
        return f"{queries} boxes of {columns - 1} classes and of none"

    def distance(self, outputs: Outputs, reference: Outputs, temperature: float = 1.0) -> torch.Tensor:
        """Return, of matched queries, T² · KL of the classes and 5 · |b - b*| of boxes, weighted by how sure the
        reference is of an object; for other outputs the relative squared error.

        Where only one of the two is given, that one is compared, query by query.
        """
        terms = [relative_square(outputs[n], y) for n, y in reference.items() if n not in (self.primary, self.boxes)]
        logits, boxes = outputs.get(self.primary), outputs.get(self.boxes)
        if self.primary in reference and self.boxes in reference and logits is not None and boxes is not None:
            order_BQ = self._order(outputs, reference)
            logits, boxes = _ordered(logits, order_BQ), _ordered(boxes, order_BQ)
        if self.primary in reference and logits is not None:
            terms.append(temperature**2 * self._divergence(logits, reference[self.primary], temperature).mean())
        if self.boxes in reference and boxes is not None:
            far_BQ = (boxes.float() - reference[self.boxes].float()).abs().sum(-1)
            sure_BQ = self._objects(reference, far_BQ)
            terms.append(BOX_WEIGHT * (sure_BQ * far_BQ).sum() / sure_BQ.sum().clamp(min=1e-12))
        return torch.stack(terms).sum()

    def require_labels(self, labels_B: torch.Tensor, outputs: Outputs) -> None:
        """Raise DataError for categories that are no classes of the model."""
        classes = self._scores(outputs[self.primary][:1]).shape[-1]
        if labels_B.numel() == 0:
            return
        places, ids = (int(labels_B[..., column].max()) for column in (1, 7))  # -1 where no image has a box
        if ids >= classes <= places:
            raise DataError(
                f"a box has category {ids}, and the model has only {classes} classes, from 0; give boxes of its own "
                "categories"
            )

    def score(self, summary: Outputs, labels_N: torch.Tensor) -> dict[str, float]:
        """Return ``map`` (COCO's, IoU .5 to .95) and ``map50`` in percent, by ``pycocotools``.

        Categories are the model's classes by their id, where no id of the labels is beyond these; else by their place.
        Raises DataError where pycocotools is missing.
        """
        return mean_precision(self._scores(summary[self.primary]), corners(summary[self.boxes]), labels_N)

    @property
    def matched(self) -> tuple[str, ...]:
        """Classes and boxes of queries: which query comes first may hang on a tie (RT-DETR sorts by score)."""
        return self.primary, self.boxes

    def matched_to(self, reference: Outputs, outputs: Outputs) -> Outputs:
        """Return each query where the one of the reference is that is nearest to it, one to one."""
        order_BQ = self._order(outputs, reference)
        return {**outputs, **{name: _ordered(outputs[name], order_BQ) for name in self.matched}}

    def agreement(self, summary: Outputs, reference: Outputs) -> dict[str, float]:
        """Return, of matched queries and weighted by how sure the reference is of an object, in percent: ``agreement``,
        those of the same class, and ``iou_agreement``, how far boxes lie on each other.
        """
        finite_N = torch.stack([y.isfinite().flatten(1).all(1) for y in summary.values()]).all(0)
        mine = {name: torch.nan_to_num(summary[name], nan=0.0) for name in (self.primary, self.boxes)}
        order_NQ = self._order(mine, reference)
        own, boxes = (_ordered(mine[name], order_NQ) for name in (self.primary, self.boxes))
        sure_NQ = self._objects(reference, order_NQ).double()
        same_NQ = (own.argmax(-1) == reference[self.primary].argmax(-1)) & finite_N[:, None]
        near_NQ = iou(corners(boxes), corners(reference[self.boxes])) * finite_N[:, None]
        total = float(sure_NQ.sum().clamp(min=1e-12))
        return {
            "agreement": 100 * float((sure_NQ * same_NQ).sum()) / total,
            "iou_agreement": 100 * float((sure_NQ * near_NQ).sum()) / total,
        }

    def _scores(self, logits_NQK: torch.Tensor) -> torch.Tensor:
        """Return the probability of each class that is an object's, (N, Q, K)."""
        return logits_NQK.float().softmax(-1)[..., :-1]

    def _divergence(self, logits: torch.Tensor, target: torch.Tensor, temperature: float) -> torch.Tensor:
        """Return KL(target || logits) of each query."""
        p = (target.float() / temperature).log_softmax(-1)
        return (p.exp() * (p - (logits.float() / temperature).log_softmax(-1))).sum(-1)

    def _pairs(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return KL(target || logits) of each pair, (B, Q of the reference, Q)."""
        p = target.float().log_softmax(-1)
        cross = p.exp() @ logits.float().log_softmax(-1).mT
        return (p.exp() * p).sum(-1, keepdim=True) - cross

    def _objects(self, reference: Outputs, like_BQ: torch.Tensor) -> torch.Tensor:
        """Return how sure the reference is that a query is an object; alike where its logits are not given."""
        logits = reference.get(self.primary)
        return torch.ones_like(like_BQ, dtype=torch.float32) if logits is None else self._scores(logits).amax(-1)

    @torch.no_grad()
    def _order(self, outputs: Outputs, reference: Outputs) -> torch.Tensor:
        """Return which query of ``outputs`` is nearest to each of the reference, one to one, (B, Q)."""
        cost = self._pairs(outputs[self.primary], reference[self.primary])
        boxes = torch.cdist(reference[self.boxes].float(), outputs[self.boxes].float(), p=1)
        weight_BQ = self._scores(reference[self.primary]).amax(-1)
        return matching(cost + BOX_WEIGHT * weight_BQ[..., None] * boxes)


@register_task("boxes-sigmoid")
@dataclass(frozen=True)
class SigmoidBoxes(Boxes):
    """As ``boxes``, with logits (B, Q, K) that each say yes or no, as RT-DETR and Deformable DETR have them."""

    def describe(self, shapes: Shapes) -> str:
        """Return how many boxes there are, and of how many classes."""
        queries, columns = shapes[self.primary]
        return f"{queries} boxes of {columns} classes"

    def _scores(self, logits_NQK: torch.Tensor) -> torch.Tensor:
        return logits_NQK.float().sigmoid()

    def _divergence(self, logits: torch.Tensor, target: torch.Tensor, temperature: float) -> torch.Tensor:
        t, y = target.float() / temperature, logits.float() / temperature
        yes = t.sigmoid() * (_log_yes(t) - _log_yes(y))
        return (yes + (-t).sigmoid() * (_log_yes(-t) - _log_yes(-y))).sum(-1)

    def _pairs(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        t, y = target.float(), logits.float()
        own = (t.sigmoid() * _log_yes(t) + (-t).sigmoid() * _log_yes(-t)).sum(-1, keepdim=True)
        return own - t.sigmoid() @ _log_yes(y).mT - (-t).sigmoid() @ _log_yes(-y).mT


def _log_yes(logits: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.logsigmoid(logits)


def _ordered(rows_BQC: torch.Tensor, order_BQ: torch.Tensor) -> torch.Tensor:
    return rows_BQC.gather(1, order_BQ[..., None].expand(-1, -1, rows_BQC.shape[-1]))
