"""Gradients of the model's outputs with respect to a segment's output, image by image."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch

from vitq.graph.outputs import ONLY, Outputs, as_outputs
from vitq.tasks import Classes, Task


@dataclass(frozen=True)
class Gradients:
    """Where gradients are taken: the segment's output on some images, its frozen suffix and the teacher's outputs.

    ``target_N`` is the teacher's tensor at the segment's end, one row per image; ``student`` computes the quantized
    one. ``outputs_N`` are those of the model's outputs that the suffix computes, by name.
    """

    suffix: Callable[[torch.Tensor], torch.Tensor | Outputs]
    target_N: torch.Tensor
    student: Callable[[], torch.Tensor]
    outputs_N: Outputs
    temperature: float
    generator: torch.Generator
    bfloat16: bool = False
    """Whether gradients of labels are taken with bfloat16 products; differences of gradients need float32."""
    task: Task = field(default_factory=lambda: Classes(ONLY))
    """What the outputs mean."""

    @cached_property
    def student_N(self) -> torch.Tensor:
        """The student's output as it is now, one row per image; computed for the estimates that read it."""
        return self.student()

    def of_divergence(self, z_N: torch.Tensor) -> torch.Tensor:
        """Return the gradient at ``z_N`` of the task's distance to the teacher's outputs, per image, of z's shape."""

        def loss(outputs: Outputs, like: Outputs) -> torch.Tensor:
            return len(next(iter(like.values()))) * self.task.distance(outputs, like, self.temperature)

        return self._of(z_N, self.outputs_N, loss)

    def of_labels(self) -> torch.Tensor:
        """Return the gradient at the teacher's output of log p(y), with y drawn from the teacher's prediction."""
        drawn = self.task.draw(self.outputs_N, self.generator)
        with torch.autocast(self.target_N.device.type, torch.bfloat16, enabled=self.bfloat16):
            return self._of(self.target_N, drawn, self.task.log_likelihood)

    def _of(self, z_N: torch.Tensor, like_N: Outputs, loss: Callable[[Outputs, Outputs], torch.Tensor]) -> torch.Tensor:
        result = torch.empty_like(z_N)
        images = len(next(iter(like_N.values())))
        rows = len(z_N) // images
        for start in range(0, images, 32):
            place = slice(start * rows, (start + 32) * rows)
            z = z_N[place].float().requires_grad_()
            with torch.enable_grad():
                outputs = {name: y.float() for name, y in as_outputs(self.suffix(z)).items()}
                total = loss(outputs, {name: like[start : start + 32] for name, like in like_N.items()}).sum()
            (result[place],) = torch.autograd.grad(total, z)
        return result
