"""How far a model's outputs are from those in floating point: by its task, as one number."""

from dataclasses import dataclass

import torch

from vitq.graph.outputs import Outputs
from vitq.tasks import Task

SEEN = 0.05
"""A distance at which some classes change; in nats, where outputs are logits."""


@dataclass(frozen=True)
class OutputDistance:
    """Distance of a model's outputs from those in floating point, ``reference``, both by name, one row an image.

    ``task`` says what that is: of logits KL(softmax(reference) || softmax(outputs)), mean over images, in nats; of
    other outputs the squared error relative to the reference's energy; summed over outputs. Outputs that are left out
    are taken to be the reference's.
    """

    task: Task
    reference: Outputs

    def __call__(self, outputs: Outputs) -> float:
        """Return the distance of ``outputs``; infinity where they are not finite."""
        if not all(bool(torch.isfinite(y).all()) for y in outputs.values()):
            return float("inf")
        return max(float(self.task.distance({**self.reference, **outputs}, self.reference)), 0.0)

    def error(self, outputs: Outputs) -> float:
        """Return the squared error of ``outputs`` relative to the reference's energy, averaged over outputs."""
        return float(self.task.error({**self.reference, **outputs}, self.reference))

    def points(self, outputs: Outputs) -> float:
        """Return the expected loss of the task's score in percent, NaN where there is none.

        Few images lie so near another class that a small error changes theirs. So the loss is that of the same error
        at a distance of ``SEEN``, times the distance over that: both grow with the error's square. Source: vitq.
        """
        apart = self(outputs)
        if not 0 < apart < float("inf"):
            lost = self.task.expected_loss(self.reference, self.reference)
            return float("nan") if lost is None or apart else lost
        factor = (SEEN / apart) ** 0.5
        scaled = {
            name: (like + factor * (outputs[name] - like)) if name in outputs and like.is_floating_point() else like
            for name, like in self.reference.items()
        }
        lost, there = self.task.expected_loss(scaled, self.reference), self(scaled)
        return float("nan") if lost is None or there == 0 else lost * apart / there

    def probe(self, outputs_B: Outputs, images: slice, generator: torch.Generator) -> torch.Tensor:
        """Return the sum over ``images`` of log p(y), y drawn by the task from what the reference predicts.

        Its gradient g has E[(gᵀδ)²] = twice the distance of a small change δ of logits, and the distance of one of
        other outputs (the Fisher information).
        """
        drawn = self.task.draw({name: y[images] for name, y in self.reference.items()}, generator)
        return self.task.log_likelihood(outputs_B, drawn).sum()
