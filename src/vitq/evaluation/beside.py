"""A quantized model beside the original on the same labelled images: what it lost, where, and whether that is noise."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from vitq.evaluation.measure import Metrics
from vitq.evaluation.outcomes import Outcomes
from vitq.statistics import mcnemar, paired_interval, wilson

BINS = 15
"""Of the expected calibration error, as in its source."""


@dataclass(frozen=True)
class ClassLoss:
    """One class: its images, and how many of them each model got right."""

    label: int
    images: int
    fp_correct: int
    correct: int

    @property
    def lost(self) -> float:
        """Points of accuracy that the class lost."""
        return 100 * (self.fp_correct - self.correct) / self.images


@dataclass(frozen=True)
class Beside(Metrics):
    """Metrics of a quantized model, with those of the original as ``floating``; all else None where labels are no
    classes.

    In percent: ``interval`` and ``fp_interval`` of top-1 (Wilson), ``difference`` of top-1 and its interval (paired
    images), expected calibration errors ``ece`` and ``fp_ece``. ``p`` is of McNemar's exact test; ``classes``
    are those that have images, the largest losses first.
    """

    floating: Metrics | None = None
    interval: tuple[float, float] | None = None
    fp_interval: tuple[float, float] | None = None
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None
    ece: float | None = None
    fp_ece: float | None = None
    p: float | None = None
    classes: tuple[ClassLoss, ...] = ()

    @property
    def within_noise(self) -> bool | None:
        """Whether the loss may be chance, at 5 %."""
        return None if self.p is None else self.p >= 0.05


def beside(metrics: Metrics, own: Outcomes | None, floating: Metrics, theirs: Outcomes | None) -> Beside:
    """Set a quantized model's metrics and outcomes beside the original's, of the same images in the same order."""
    plain: Mapping[str, Any] = {name: getattr(metrics, name) for name in asdict(metrics)}
    if own is None or theirs is None or not torch.equal(own.labels_N, theirs.labels_N):
        return Beside(**plain, floating=floating)
    mine, original = own.correct_N.numpy(), theirs.correct_N.numpy()
    test, count = mcnemar(mine, original), len(mine)
    difference = (test.better - test.worse) / count
    return Beside(
        **plain,
        floating=floating,
        interval=_percent(wilson(int(mine.sum()), count)),
        fp_interval=_percent(wilson(int(original.sum()), count)),
        difference=100 * difference,
        difference_interval=_percent(paired_interval(test.better, test.worse, count)),
        ece=calibration_error(own),
        fp_ece=calibration_error(theirs),
        p=test.p,
        classes=class_losses(own, theirs),
    )


def calibration_error(outcomes: Outcomes) -> float:
    """Return the expected calibration error in percent: over bins of confidence, how far it is from accuracy.

    Source: Guo et al. 2017, equation 3, 15 bins of equal width.
    """
    place_N = (outcomes.confidence_N.double() * BINS).ceil().long().clamp(1, BINS) - 1  # bins are open below
    gap_N = outcomes.correct_N.double() - outcomes.confidence_N.double()
    gaps_B = torch.zeros(BINS, dtype=torch.float64).index_add_(0, place_N, gap_N)
    return 100 * float(gaps_B.abs().sum()) / len(place_N)


def class_losses(own: Outcomes, theirs: Outcomes) -> tuple[ClassLoss, ...]:
    """Return every class that has images, those that lost most points first."""
    size = int(own.labels_N.max()) + 1
    images, correct, original = (
        torch.bincount(own.labels_N[mask_N], minlength=size).tolist()
        for mask_N in (torch.ones_like(own.correct_N), own.correct_N, theirs.correct_N)
    )
    found = [ClassLoss(k, images[k], original[k], correct[k]) for k in range(size) if images[k]]
    return tuple(sorted(found, key=lambda loss: (-loss.lost, loss.label)))


def _percent(ends: tuple[float, float]) -> tuple[float, float]:
    return 100 * ends[0], 100 * ends[1]
