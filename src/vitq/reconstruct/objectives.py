"""Objectives: the terms of a reconstruction loss, which add up after each is scaled by its first value."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional as F

EPSILON = 1e-8


@dataclass(frozen=True)
class Batch:
    """What the terms of one step may look at: the segment's output, its layers' outputs, and the model's end (goal)."""

    output: torch.Tensor
    target: torch.Tensor
    taps: tuple[torch.Tensor, ...]
    target_taps: tuple[torch.Tensor, ...]
    goal: torch.Tensor | None
    target_goal: torch.Tensor | None


class Term(Protocol):
    """One term of the loss: a scalar from a batch."""

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the loss of ``batch``."""


def mean_square(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean squared difference in float32."""
    return F.mse_loss(output.float(), target.float())


def divergence(logits_BK: torch.Tensor, target_BK: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Return T² · KL(softmax(target / T) || softmax(logits / T)), averaged over the batch."""
    student = F.log_softmax(logits_BK.float() / temperature, -1)
    teacher = F.log_softmax(target_BK.float() / temperature, -1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation per channel (the last axis) over all other axes."""
    flat_TC = x.float().reshape(-1, x.shape[-1])
    return flat_TC.mean(0), flat_TC.std(0, correction=0)


def moment_distance(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean over channels of (Δμ)² + (Δσ)², relative to the target's mean variance.

    Source: MGRQ's intra-block local supervision (arXiv 2406.09229) aligns the distribution of each layer's output;
    its statistic is not published: per-channel moments are vitq's choice, KL and MSE the alternatives.
    """
    (mean, std), (target_mean, target_std) = moments(output), moments(target)
    distance = (mean - target_mean).square() + (std - target_std).square()
    return distance.mean() / (target_std.square().mean() + EPSILON)


def channel_divergence(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return KL between the softmax over channels of both tensors, averaged over positions."""
    k = output.shape[-1]
    return divergence(output.reshape(-1, k), target.reshape(-1, k))


def relative_square(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the squared error relative to the target's energy."""
    return mean_square(output, target) / (target.float().square().mean() + EPSILON)


@dataclass(frozen=True)
class BlockTerm:
    """Squared error at the segment's end. Source: BRECQ (arXiv 2102.05426) without its Fisher weight; MGRQ's OBWR."""

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the mean squared error of the output."""
        return mean_square(batch.output, batch.target)


@dataclass(frozen=True)
class FeatureTerm:
    """Extra-block global supervision on the penultimate feature, reached through the frozen suffix.

    Source: MGRQ (arXiv 2406.09229) relates a block's output to the model's output; the distance is not published.
    Squared error of the feature is GLF-Q's.
    """

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the mean squared error of the feature; batch.goal must be the feature."""
        assert batch.goal is not None and batch.target_goal is not None
        return mean_square(batch.goal, batch.target_goal)


@dataclass(frozen=True)
class LogitsTerm:
    """Extra-block global supervision on the logits: KL at ``temperature``. Source: PD-Quant (arXiv 2212.07048)."""

    temperature: float = 4.0

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return T² · KL(teacher || student); batch.goal must be the logits."""
        assert batch.goal is not None and batch.target_goal is not None
        return divergence(batch.goal, batch.target_goal, self.temperature)


LOCAL = {"moments": moment_distance, "kl": channel_divergence, "mse": relative_square}


@dataclass(frozen=True)
class LocalTerm:
    """Intra-block local supervision on the outputs of the layers inside. Source: MGRQ; see moment_distance."""

    by: str = "moments"

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the sum over layers; zero where a segment has a single layer, whose output is the segment's."""
        pairs = zip(batch.taps, batch.target_taps, strict=True)
        return torch.stack([LOCAL[self.by](a, b) for a, b in pairs]).sum() if batch.taps else batch.output.new_zeros(())


class Fusion:
    """Mixed granularity loss fusion: Σ_i w_i · L_i / L_i(first step), so the terms start at the ratio of their weights.

    Source: MGRQ names the fusion; scales taken once at the first iteration are vitq's reading (as in GLF-Q).
    """

    def __init__(self, terms: dict[str, tuple[float, Term]]) -> None:
        self.terms = {name: (weight, term) for name, (weight, term) in terms.items() if weight > 0}
        self.first: dict[str, float] = {}

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the fused loss."""
        losses = []
        for name, (weight, term) in self.terms.items():
            loss = term(batch)
            first = self.first.setdefault(name, max(float(loss.detach()), EPSILON))
            losses.append(loss * (weight / first))
        return torch.stack(losses).sum()
