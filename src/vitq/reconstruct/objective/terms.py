"""Objectives: the terms of a reconstruction loss, and what each looks at; ``fusion`` adds them up."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch

from vitq.graph.outputs import ONLY, Outputs, as_outputs
from vitq.reconstruct.objective.curvature import Curvature
from vitq.reconstruct.objective.distances import (
    channel_divergence,
    image_moments,
    moment_distance,
    pair_divergence,
)
from vitq.registry import Registry
from vitq.tasks import Classes, Task
from vitq.tasks.distances import mean_square, relative_square

Goal = torch.Tensor | Outputs
"""The model's end: the penultimate feature, or its outputs by name."""


@dataclass(frozen=True)
class Batch:
    """What the terms of one step may look at: the segment's output, its layers' outputs, and the model's end (goal).

    ``sides`` are what the model returns from inside the segment, beside its output; ``task`` says what outputs mean.
    """

    output: torch.Tensor
    target: torch.Tensor
    taps: tuple[torch.Tensor, ...]
    target_taps: tuple[torch.Tensor, ...]
    goal: Goal | None
    target_goal: Goal | None
    curvature: Curvature | None = None
    sides: tuple[torch.Tensor, ...] = ()
    target_sides: tuple[torch.Tensor, ...] = ()
    task: Task = field(default_factory=lambda: Classes(ONLY))


class Term(Protocol):
    """One term of the loss: a scalar from a batch."""

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the loss of ``batch``."""


TermType = TypeVar("TermType", bound=Callable[[], Term])
OWN = ("block", "low_rank", "global", "local", "ranking")
"""Names of the terms that have options of their own."""

TERMS: Registry[Callable[[], Term]] = Registry("term", reserved=OWN)
"""Terms by the name that ``reconstruct.objective.extra`` takes."""


def register_term(name: str) -> Callable[[TermType], TermType]:
    """Register a term's class, made without arguments, for ``reconstruct.objective.extra``; RecipeError if taken."""
    return TERMS.register(name)


@dataclass(frozen=True)
class BlockTerm:
    """Squared error at the segment's end, weighed by the diagonal of the batch's curvature where there is one.

    Source: BRECQ (arXiv 2102.05426) without its Fisher weight; MGRQ's OBWR. ``drop_smallest`` leaves out that part of
    the elements with the least weighed error, so that many tiny errors do not hide the decisive ones: APQ-ViT's bottom
    elimination (arXiv 2303.14341), which its paper uses to choose scales. What the model returns from inside the
    segment counts as much as its end: squared errors of each are relative to its energy (vitq).
    """

    drop_smallest: float = 0.0

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the mean over elements."""
        errors = (batch.output.float() - batch.target.float()).square()
        if batch.curvature is not None:
            errors = batch.curvature.diagonal_N * errors
        if self.drop_smallest > 0:
            sample = errors.detach().flatten()
            least = sample[:: max(len(sample) // 65536, 1)].quantile(self.drop_smallest)
            errors = errors * (errors.detach() >= least)
        if not batch.sides:
            return errors.mean()
        sides = [relative_square(side, target) for side, target in zip(batch.sides, batch.target_sides, strict=True)]
        return errors.mean() + batch.target.float().square().mean() * torch.stack(sides).sum()


@dataclass(frozen=True)
class LowRankTerm:
    """The low-rank part of the batch's curvature. Source: FIMA-Q (arXiv 2506.11543), LS-ViT (CVPR 2026)."""

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the mean over images; batch.curvature must have rows."""
        assert batch.curvature is not None
        return batch.curvature.low_rank_loss(batch.output.float() - batch.target.float())


@dataclass(frozen=True)
class FeatureTerm:
    """Extra-block global supervision on the penultimate feature, reached through the frozen suffix.

    Source: MGRQ (arXiv 2406.09229) relates a block's output to the model's output; the distance is not published.
    Squared error of the feature is GLF-Q's.
    """

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the mean squared error of the feature; batch.goal must be the feature."""
        assert isinstance(batch.goal, torch.Tensor) and isinstance(batch.target_goal, torch.Tensor)
        return mean_square(batch.goal, batch.target_goal)


@dataclass(frozen=True)
class OutputsTerm:
    """Extra-block global supervision on the model's outputs: the distance of their task.

    Of logits that is KL at ``temperature``. Source: PD-Quant (arXiv 2212.07048).
    """

    temperature: float = 4.0

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the distance, of logits T² · KL(teacher || student); batch.goal must be the outputs."""
        assert batch.goal is not None and batch.target_goal is not None
        return batch.task.distance(as_outputs(batch.goal), as_outputs(batch.target_goal), self.temperature)


ToOutputs = Callable[[torch.Tensor], torch.Tensor | Outputs]
"""What makes the model's outputs of its penultimate feature."""


@dataclass(frozen=True)
class RankingTerm:
    """The order of the classes that the teacher finds likeliest, pair by pair; see ``pair_divergence`` (vitq).

    ``to_outputs`` is given where the goal is the feature.
    """

    to_outputs: ToOutputs | None = None
    top: int = 5

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the mean over images and pairs; batch.goal must be the outputs, or lead to them."""
        assert batch.goal is not None and batch.target_goal is not None
        with torch.no_grad():
            target_BK = self._logits(batch.target_goal, batch.task)
        return pair_divergence(self._logits(batch.goal, batch.task), target_BK, self.top)

    def _logits(self, goal: Goal, task: Task) -> torch.Tensor:
        found = self.to_outputs(goal) if self.to_outputs is not None and isinstance(goal, torch.Tensor) else goal
        return as_outputs(found)[task.primary]


Summary = Callable[[torch.Tensor, int], torch.Tensor]


@dataclass(frozen=True)
class Local:
    """A distance between a layer's outputs, and what it needs of the teacher's.

    ``summary`` gives that as one row for each of so many images, small enough to be kept for all of them; without it
    the distance needs the whole output, which is computed again at every step.
    """

    distance: "Distance"
    summary: Summary | None = None


Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
DistanceType = TypeVar("DistanceType", bound=Distance)
DISTANCES: Registry[Local] = Registry("distance", Local)
"""Distances between a layer's outputs, by the name that ``reconstruct.objective.local_by`` takes."""


def register_distance(name: str, *, summary: Summary | None = None) -> Callable[[DistanceType], DistanceType]:
    """Register a function of a layer's output and the teacher's, or its ``summary``; RecipeError for a taken name."""
    return DISTANCES.register(name, lambda distance: Local(distance, summary))


register_distance("moments", summary=image_moments)(moment_distance)
register_distance("kl")(channel_divergence)
register_distance("mse")(relative_square)


@dataclass(frozen=True)
class LocalTerm:
    """Intra-block local supervision on the outputs of the layers inside. Source: MGRQ; see moment_distance."""

    by: str = "moments"

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the sum over layers; zero where a segment has a single layer, whose output is the segment's."""
        pairs = zip(batch.taps, batch.target_taps, strict=True)
        return (
            torch.stack([DISTANCES[self.by].distance(a, b) for a, b in pairs]).sum()
            if batch.taps
            else batch.output.new_zeros(())
        )
