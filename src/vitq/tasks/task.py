"""A task: what a model's outputs mean, asked by training, measuring, export and report."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self, TypeVar

import torch

from vitq.errors import ModelError
from vitq.graph.outputs import Outputs
from vitq.registry import Registry
from vitq.tasks.distances import nearness, relative_square

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each output for one image, by name."""


@dataclass(frozen=True)
class Task(ABC):
    """What a model's outputs mean; ``primary`` names the one that counts first.

    Methods for training may be given some of the outputs only, those that follow from where an error is; they are
    summed over what the reference holds.
    """

    primary: str
    labels: ClassVar[str] = ""
    """What a label says of an image, for messages; empty where no labels are scored."""
    label_axes: ClassVar[int] = 1
    """Axes of a batch of labels, as ``vitq.data.load_batches`` gives them: 1 of classes, 3 of boxes, 4 of maps."""
    agrees: ClassVar[str] = "top-1"
    """What is equal where ``agreement`` says so."""
    metric: ClassVar[str] = ""
    """Name of the score that counts first; empty where there is none."""

    @classmethod
    @abstractmethod
    def fit(cls, shapes: Shapes) -> Self | None:
        """Return the task of a model with outputs of these shapes, None where it is another's."""

    def describe(self, shapes: Shapes) -> str:
        """Return what the outputs are, for people."""
        return f"'{self.primary}' first"

    def classes(self, shapes: Shapes) -> int | None:
        """Return the number of classes that a label may name, None where labels name none."""
        return None

    @abstractmethod
    def distance(self, outputs: Outputs, reference: Outputs, temperature: float = 1.0) -> torch.Tensor:
        """Return how far outputs are from those of a reference, averaged over images, with a gradient."""

    def error(self, outputs: Outputs, reference: Outputs) -> torch.Tensor:
        """Return the squared error relative to the reference's energy, averaged over outputs: it judges training."""
        return torch.stack([relative_square(outputs[name], target) for name, target in reference.items()]).mean()

    def expected_loss(self, outputs: Outputs, reference: Outputs) -> float | None:
        """Return how much of its score a model is expected to lose against the reference's, in percent, by no label.

        None where the task has no score that the reference alone foresees: by default.
        """
        return None

    def draw(self, reference: Outputs, generator: torch.Generator) -> Outputs:
        """Draw what the reference predicts, one for each image: for the Fisher, which needs labels.

        By default outputs are Gaussian around the reference, with its root mean square as deviation, so that the
        Fisher is the curvature of ``error``. Source: vitq.
        """
        return {name: gaussian(target, generator) for name, target in reference.items()}

    def log_likelihood(self, outputs: Outputs, drawn: Outputs) -> torch.Tensor:
        """Return log p(drawn | outputs) for each image, (B, 1), but for what does not depend on the outputs.

        Its gradient is taken at the reference that ``draw`` was given.
        """
        return torch.stack(
            [(outputs[name] * draws).flatten(1).sum(1, keepdim=True) for name, draws in drawn.items()]
        ).sum(0)

    def summary(self, outputs: Outputs) -> Outputs:
        """Return what is kept of a batch to score it and to compare models, one row an image."""
        return outputs

    def summary_at(self, outputs: Outputs, size: tuple[int, int]) -> Outputs:
        """Return what is kept of a batch of images of ``size`` = (H, W); by default that does not depend on it."""
        return self.summary(outputs)

    def require_labels(self, labels_B: torch.Tensor, outputs: Outputs) -> None:
        """Raise DataError for labels that outputs of this kind cannot have; by default any may be."""
        return

    def score(self, summary: Outputs, labels_N: torch.Tensor) -> dict[str, float]:
        """Return what the outputs score with labels, by the name of the metric."""
        return {}

    @property
    def matched(self) -> tuple[str, ...]:
        """Outputs that are sets without an order, which ``agreement`` alone compares."""
        return ()

    def matched_to(self, reference: Outputs, outputs: Outputs) -> Outputs:
        """Return the outputs with their sets in the order of the reference's; by default there are none."""
        return outputs

    def agreement(self, summary: Outputs, reference: Outputs) -> dict[str, float]:
        """Return how much the outputs agree with a reference, both as ``summary`` gives them, by name.

        By default ``relative_error`` |y - r| / |r| and ``cosine`` y·r / |y||r| of the worst output.
        """
        distances = [found for name in reference if (found := nearness(summary[name], reference[name]))]
        if not distances:
            return {}
        return {
            "relative_error": max(found["relative_error"] for found in distances),
            "cosine": min(found["cosine"] for found in distances),
        }


TASKS: Registry[type[Task]] = Registry("task", Task, error=ModelError)
TaskType = TypeVar("TaskType", bound=type[Task])


def register_task(name: str) -> Callable[[TaskType], TaskType]:
    """Register a class of tasks; it is taken for models that it fits before vitq's own, the last one first.

    Raises ModelError where the name is taken.
    """
    return TASKS.register(name)


def gaussian(target: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the gradient of a Gaussian's log-likelihood at its mean ``target``, for a draw from it.

    Its deviation is the root mean square of the target, and elements are averaged.
    """
    noise = torch.randn(target.shape, generator=generator).to(target.device)
    deviation: torch.Tensor = target.float().square().mean().sqrt().clamp(min=1e-12)
    spread: float = target[0].numel() ** 0.5
    return noise / (deviation * spread)
