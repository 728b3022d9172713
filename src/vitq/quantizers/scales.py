"""Scales that keep every value finite, and sums to the shape of a parameter."""

import torch

SMALLEST_SCALE = 2.0**-120  # scales live in [SMALLEST_SCALE, LARGEST_SCALE]: x̂ of every code stays finite
LARGEST_SCALE = 2.0**118

NARROWEST = 1e-3
"""Least width of a range that need not hold zero, in parts of the median one: a dead channel keeps a usable scale."""


def clamp_scale(scale: torch.Tensor) -> torch.Tensor:
    """Return the scale as every codec uses it: at least SMALLEST_SCALE, at most LARGEST_SCALE."""
    return scale.clamp(SMALLEST_SCALE, LARGEST_SCALE)


def free_range_qparams(low_KG: torch.Tensor, high_KG: torch.Tensor, steps: int) -> dict[str, torch.Tensor]:
    """Return scale and zero point of ranges that need not hold zero, ``steps`` scales wide; the zero point is any."""
    width_KG = high_KG - low_KG
    width_KG = torch.maximum(width_KG, NARROWEST * width_KG.median(1, keepdim=True).values)
    scale_KG = (width_KG / steps).clamp(min=SMALLEST_SCALE)
    return {"scale": scale_KG, "zero_point": (-low_KG / scale_KG).round()}


INTEGER_STEPS = 255
"""Steps of the largest code of 8 bits."""

OCTAVES = 32
"""How far below the largest value logarithmic values count where they are whole numbers: less is 0 in float32 sums."""


def carrier(steps: int) -> torch.dtype:
    """Return the type of whole numbers from 0 to ``steps``."""
    return torch.uint8 if steps <= INTEGER_STEPS else torch.int64


def total(x: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Sum x to the shape of its parameters, innermost dimension first: that fuses with elementwise work."""
    if x.ndim > 1 and shape[-1:] == (1,):
        x = x.sum(dim=-1, keepdim=True)
    return x.sum_to_size(shape)
