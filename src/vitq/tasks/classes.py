"""Classification: the primary output is a row of logits for each image."""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from vitq.errors import DataError
from vitq.graph.outputs import Outputs
from vitq.tasks.distances import divergence, nearness, relative_square
from vitq.tasks.task import Shapes, Task, register_task


@register_task("classes")
@dataclass(frozen=True)
class Classes(Task):
    """Logits (B, K), compared by KL and by the likeliest class; one column by its sign, and by its distance.

    Whatever else the model returns is compared by relative error. Of several outputs the logits are the one so named,
    or the only one whose name ends so.
    """

    labels: ClassVar[str] = "the number of its class"
    metric: ClassVar[str] = "top1"

    @classmethod
    def fit(cls, shapes: Shapes) -> Self | None:
        """Fit a single row of numbers for each image, or one among other outputs that is called logits."""
        rows = [name for name, shape in shapes.items() if len(shape) == 1]
        if len(shapes) > 1:
            rows = [name for name in rows if name.endswith("logits")]
            rows = ["logits"] if "logits" in rows else rows
        return cls(rows[0]) if len(rows) == 1 else None

    def describe(self, shapes: Shapes) -> str:
        """Return the number of classes."""
        return f"logits of {self.classes(shapes)} classes" if self.classes(shapes) > 1 else "one number an image"

    def classes(self, shapes: Shapes) -> int:
        """Return the width of the logits."""
        return shapes[self.primary][0]

    def distance(self, outputs: Outputs, reference: Outputs, temperature: float = 1.0) -> torch.Tensor:
        """Return T² · KL(reference || outputs) of the logits, and the relative squared error of other outputs."""
        terms = [
            divergence(outputs[name], target, temperature)
            if name == self.primary and target.shape[-1] > 1
            else relative_square(outputs[name], target)
            for name, target in reference.items()
        ]
        return torch.stack(terms).sum() if len(terms) > 1 else terms[0]

    def expected_loss(self, outputs: Outputs, reference: Outputs) -> float | None:
        """Return the loss of top-1 if labels are distributed as the reference predicts, in percent. Source: vitq.

        That is the mean of p(a) - p(b): p the reference's probabilities, a and b the likeliest classes of both models.
        """
        target_NK, logits_NK = reference[self.primary].float(), outputs[self.primary].float()
        if target_NK.shape[-1] == 1:
            target_NK, logits_NK = (torch.cat((y, -y), -1) / 2 for y in (target_NK, logits_NK))
        p_NK = target_NK.softmax(-1)
        lost_N = p_NK.amax(-1) - p_NK.gather(-1, logits_NK.argmax(-1, keepdim=True))[:, 0]
        return 100 * float(lost_N.mean())

    def draw(self, reference: Outputs, generator: torch.Generator) -> Outputs:
        """Draw a class (N, 1) from the prediction of each image."""
        logits_NK = reference.get(self.primary)
        if logits_NK is None or logits_NK.shape[-1] == 1:
            return super().draw(reference, generator)
        labels_N1 = torch.multinomial(logits_NK.float().softmax(-1).cpu(), 1, generator=generator)
        others = {name: target for name, target in reference.items() if name != self.primary}
        return {self.primary: labels_N1.to(logits_NK.device), **super().draw(others, generator)}

    def log_likelihood(self, outputs: Outputs, drawn: Outputs) -> torch.Tensor:
        """Return log p(y) of the classes drawn, (B, 1)."""
        labels_B1 = drawn.get(self.primary)
        if labels_B1 is None or labels_B1.is_floating_point():
            return super().log_likelihood(outputs, drawn)
        own = outputs[self.primary].log_softmax(-1).gather(-1, labels_B1)
        others = {name: draws for name, draws in drawn.items() if name != self.primary}
        return own + super().log_likelihood(outputs, others) if others else own

    def summary(self, outputs: Outputs) -> Outputs:
        """Return the five likeliest classes (N, 5), -1 where logits are not finite; one column as it is."""
        logits_BK = outputs[self.primary]
        if logits_BK.shape[1] == 1:
            return outputs
        order_B5 = logits_BK.topk(min(5, logits_BK.shape[1]), -1).indices
        return {**outputs, self.primary: _where_finite(order_B5, logits_BK)}

    def require_labels(self, labels_B: torch.Tensor, outputs: Outputs) -> None:
        """Raise DataError for a label that is no class."""
        width = outputs[self.primary].shape[1]
        largest, classes = int(labels_B.max()), max(width, 2)
        if largest >= classes:
            hint = "; a model of one output takes 0 and 1, leave labels out for a regression" if width == 1 else ""
            raise DataError(f"label {largest}, but the model has only {classes} classes, from 0{hint}")

    def score(self, summary: Outputs, labels_N: torch.Tensor) -> dict[str, float]:
        """Return ``top1`` and ``top5`` in percent, of one column the accuracy of its sign as ``top1``."""
        kept = summary[self.primary]
        binary = kept.is_floating_point()
        order = _where_finite((kept > 0).long(), kept) if binary else kept
        hit = order == labels_N[:, None]
        return {"top1": _percent(hit[:, 0]), **({} if binary else {"top5": _percent(hit.any(-1))})}

    def agreement(self, summary: Outputs, reference: Outputs) -> dict[str, float]:
        """Return ``agreement``: images with the same likeliest class, in percent; of one column its distance."""
        mine, theirs = summary[self.primary], reference[self.primary]
        if mine.is_floating_point():
            return nearness(mine, theirs)
        return {"agreement": _percent((mine[:, 0] == theirs[:, 0]) & (mine[:, 0] >= 0))}


def _where_finite(order: torch.Tensor, logits_BK: torch.Tensor) -> torch.Tensor:
    return order.masked_fill(~logits_BK.isfinite().all(1, keepdim=True), -1)


def _percent(hit_N: torch.Tensor) -> float:
    return 100 * float(hit_N.double().mean())
