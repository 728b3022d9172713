"""Gradients of the prediction with respect to a segment's output, image by image."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from vitq.reconstruct.objective.distances import divergence


@dataclass(frozen=True)
class Gradients:
    """Where gradients are taken: the segment's output on some images, its frozen suffix and the teacher's logits.

    ``target_N`` is the teacher's output, one row per image; ``student`` computes the quantized one.
    """

    suffix: nn.Module
    target_N: torch.Tensor
    student: Callable[[], torch.Tensor]
    logits_NK: torch.Tensor
    temperature: float
    generator: torch.Generator
    bfloat16: bool = False
    """Whether gradients of labels are taken with bfloat16 products; differences of gradients need float32."""

    @cached_property
    def student_N(self) -> torch.Tensor:
        """The student's output as it is now, one row per image; computed for the estimates that read it."""
        return self.student()

    def of_divergence(self, z_N: torch.Tensor) -> torch.Tensor:
        """Return the gradient at ``z_N`` of KL(teacher's prediction || the suffix's), per image, of z's shape."""
        return self._of(z_N, self.logits_NK, lambda logits_BK, like: _divergence(logits_BK, like, self.temperature))

    def of_labels(self) -> torch.Tensor:
        """Return the gradient at the teacher's output of log p(y), with y drawn from the teacher's prediction."""
        draws_N1 = torch.multinomial(self.logits_NK.float().softmax(-1).cpu(), 1, generator=self.generator)
        labels_N1 = draws_N1.to(self.logits_NK.device)
        with torch.autocast(self.target_N.device.type, torch.bfloat16, enabled=self.bfloat16):
            return self._of(self.target_N, labels_N1, _likelihood)

    def _of(
        self, z_N: torch.Tensor, like_N: torch.Tensor, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        result = torch.empty_like(z_N)
        rows = len(z_N) // len(like_N)
        for start in range(0, len(like_N), 32):
            place = slice(start * rows, (start + 32) * rows)
            z = z_N[place].float().requires_grad_()
            with torch.enable_grad():
                total = loss(self.suffix(z).float(), like_N[start : start + 32]).sum()
            (result[place],) = torch.autograd.grad(total, z)
        return result


def _likelihood(logits_BK: torch.Tensor, y_B1: torch.Tensor) -> torch.Tensor:
    return logits_BK.log_softmax(-1).gather(-1, y_B1)


def _divergence(logits_BK: torch.Tensor, like_BK: torch.Tensor, temperature: float) -> torch.Tensor:
    return len(logits_BK) * divergence(logits_BK, like_BK, temperature)
