"""What one segment is trained and evaluated on."""

from dataclasses import dataclass

import torch

from vitq.graph.outputs import Outputs
from vitq.reconstruct.objective.terms import Goal

ONE_HELD_OUT_IN = 5
"""At most one image in so many is held out: a few hundred images are for training first."""


def count_held_out(images: int, most: int) -> int:
    """Return how many of ``images`` are not trained on: ``most``, but no more than a fifth. Source: vitq."""
    return min(most, images // ONE_HELD_OUT_IN)


@dataclass(frozen=True)
class Data:
    """Inputs and targets of one segment, one row per image, training images before held-out ones.

    ``goal``: the teacher's feature, or its outputs by name; ``outputs``: those that curvatures are of; ``layers``: the
    teacher's summaries of the layers inside, where the local term has one to be kept; ``sides``: what the teacher
    returns from inside the segment.
    """

    x_student: torch.Tensor
    x_teacher: torch.Tensor
    target: torch.Tensor
    goal: Goal | None
    outputs: Outputs | None
    layers: tuple[torch.Tensor, ...] | None
    train: int
    sides: tuple[torch.Tensor, ...] = ()

    def held_out(self) -> "Data":
        """Return the held-out images alone (all images where none are held out)."""
        start = self.train if self.train < len(self.target) else 0
        goal = None if self.goal is None else _rows_from(self.goal, start)
        sides = tuple(side[start:] for side in self.sides)
        return Data(self.x_student[start:], self.x_teacher[start:], self.target[start:], goal, None, None, 0, sides)


def count_rows(goal: Goal) -> int:
    """Return how many rows a feature has, or each of the outputs by name."""
    return len(goal) if isinstance(goal, torch.Tensor) else len(next(iter(goal.values())))


def _rows_from(goal: Goal, start: int) -> Goal:
    return goal[start:] if isinstance(goal, torch.Tensor) else {name: y[start:] for name, y in goal.items()}
