"""Why a tensor is hard to quantize: what its values look like, in words."""

from dataclasses import dataclass

import torch

from vitq.evidence import Distribution
from vitq.graph import Role

TAIL, UNEVEN, SKEWED = 15.0, 8.0, 4.0
"""Deviations of the largest value, largest over median channel, and one side over the other, that are worth a word."""


@dataclass(frozen=True)
class Hard:
    """A site that costs much: the share of the whole distance that it causes, why it is hard, and its values."""

    site: str
    role: str
    gain: float
    reasons: tuple[str, ...]
    distribution: Distribution | None = None


def reasons(x: torch.Tensor, role: Role, channels: int) -> tuple[str, ...]:
    """Return what makes the values of a site hard; ``channels`` is the axis that may have a scale of its own.

    Nothing where they look ordinary: then it is the place in the model that makes it costly.
    """
    x = x.float()
    found = []
    if role is Role.PROBABILITIES:
        small = float((x < 1 / 16 * x.max()).double().mean())
        found.append(f"{100 * small:.0f} % of the probabilities are below a sixteenth of the largest")
        return tuple(found)
    deviation = float(x.std().clamp(min=1e-12))
    tail = float((x - x.mean()).abs().max()) / deviation
    if tail > TAIL:
        found.append(f"its largest value is {tail:.0f} standard deviations out")
    largest_C = x.abs().movedim(channels, 0).flatten(1).amax(1)
    ratio = float(largest_C.max() / largest_C.median().clamp(min=1e-12))
    if len(largest_C) > 1 and ratio > UNEVEN:
        found.append(f"channel {int(largest_C.argmax())} is {ratio:.0f} times as large as the median channel")
    low, high = (float(end) for end in x.aminmax())
    if low < 0 < high and max(high / -low, -low / high) > SKEWED:
        side = "above" if high > -low else "below"
        found.append(f"it reaches {max(high / -low, -low / high):.0f} times as far {side} 0 as on the other side")
    return tuple(found)
