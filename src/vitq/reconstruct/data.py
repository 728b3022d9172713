"""What one segment is trained and evaluated on."""

from dataclasses import dataclass

import torch

ONE_HELD_OUT_IN = 5
"""At most one image in so many is held out: a few hundred images are for training first."""


def count_held_out(images: int, most: int) -> int:
    """Return how many of ``images`` are not trained on: ``most``, but no more than a fifth. Source: vitq."""
    return min(most, images // ONE_HELD_OUT_IN)


@dataclass(frozen=True)
class Data:
    """Inputs and targets of one segment, one row per image, training images before held-out ones.

    ``layers``: the teacher's summaries of the layers inside, where the local term has one to be kept.
    """

    x_student: torch.Tensor
    x_teacher: torch.Tensor
    target: torch.Tensor
    goal: torch.Tensor | None
    logits_NK: torch.Tensor | None
    layers: tuple[torch.Tensor, ...] | None
    train: int

    def held_out(self) -> "Data":
        """Return the held-out images alone (all images where none are held out)."""
        start = self.train if self.train < len(self.target) else 0
        goal = None if self.goal is None else self.goal[start:]
        return Data(self.x_student[start:], self.x_teacher[start:], self.target[start:], goal, None, None, 0)
