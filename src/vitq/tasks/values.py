"""Outputs of no known meaning: numbers, compared by relative error and cosine."""

from dataclasses import dataclass
from typing import Self

import torch

from vitq.graph.outputs import Outputs
from vitq.tasks.distances import relative_square
from vitq.tasks.task import Shapes, Task, register_task

PREFERRED = ("logits", "image_embeds", "pooler_output")
"""Names that Hugging Face gives to the output that counts first: classes, else features of the whole image."""


@register_task("values")
@dataclass(frozen=True)
class Values(Task):
    """Tensors of any shape, each as near to the reference's as can be."""

    @classmethod
    def fit(cls, shapes: Shapes) -> Self:
        """Fit every model."""
        return cls(next((name for name in PREFERRED if name in shapes), next(iter(shapes))))

    def describe(self, shapes: Shapes) -> str:
        """Return what is told of the outputs."""
        return "numbers, of which only nearness is told"

    def distance(self, outputs: Outputs, reference: Outputs, temperature: float = 1.0) -> torch.Tensor:
        """Return the sum over outputs of the relative squared error; there is no temperature."""
        return torch.stack([relative_square(outputs[name], target) for name, target in reference.items()]).sum()
