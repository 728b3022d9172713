"""Is a loss more than noise? Two models on the same images: exact McNemar test, and an interval of the difference."""

from dataclasses import dataclass
from math import sqrt

from vitq.statistics import Z, discordance, paired_interval


@dataclass(frozen=True)
class Loss:
    """How much a model lost against another on the same images, in points (percent of images), with its noise.

    ``low`` and ``high`` are a 95 % interval; ``p`` is the probability of a difference at least as large where there
    is none, None where no label says which of the two is right. ``by`` says how it was found.
    """

    points: float
    low: float
    high: float
    p: float | None
    images: int
    by: str

    @property
    def within_noise(self) -> bool:
        """Whether nothing speaks against no loss at all: the test, or the interval where there is no test."""
        return self.low <= 0 if self.p is None else self.p >= 0.05


def paired_loss(first: str, second: str, by: str = "labels") -> Loss:
    """Return what ``second`` lost against ``first`` from their hits, one letter an image, 1 where it is right."""
    only_first = sum(a > b for a, b in zip(first, second, strict=True))
    only_second = sum(a < b for a, b in zip(first, second, strict=True))
    low, high = (100 * end for end in paired_interval(only_first, only_second, len(first)))
    points = 100 * (only_first - only_second) / len(first)
    return Loss(points, low, high, discordance(only_first, only_second), len(first), by)


def bounded_loss(points: float, agreement: float, images: int) -> Loss:
    """Return a loss of which only both accuracies and the agreement are known, all in percent.

    Every image on which the models disagree is taken to be right for one of them, which is the most noise there can be.
    """
    apart = max(images * (1 - agreement / 100), abs(points) * images / 100)
    only_first = (apart + points * images / 100) / 2
    only_second = apart - only_first
    low, high = (100 * end for end in paired_interval(only_first, only_second, images))
    return Loss(points, low, high, discordance(round(only_first), round(only_second)), images, "both accuracies")


def expected_loss(mean: float, deviation: float, images: int) -> Loss:
    """Return the loss that is expected without labels, with the interval of its mean over images."""
    half = Z * deviation / sqrt(images)
    return Loss(mean, mean - half, mean + half, None, images, "what floating point is sure of")
