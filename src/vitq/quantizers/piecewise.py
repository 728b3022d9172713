"""Piecewise uniform quantization: fine steps for the many small values, four times coarser ones for the tail.

Half of the codes, from the lowest value up to the knee, are s apart, the other half 4 s. All values are whole
multiples of s, so up to six bits the decoded tensor is itself an eight-bit integer tensor.
"""

from typing import ClassVar

import torch

from vitq.errors import RecipeError
from vitq.quantizers.affine import affine_from_range
from vitq.quantizers.base import Quantizer
from vitq.quantizers.format import Format
from vitq.quantizers.kernels import Kernel, clamp_scale
from vitq.quantizers.registry import register_format

RATIO = 4
"""How many times coarser the steps above the knee are."""


def piecewise_raw_codes(
    x: torch.Tensor, qmax: int, scale: torch.Tensor, zero_point: torch.Tensor | None
) -> torch.Tensor:
    """Return the nearest code: round(u) up to the knee, round(knee + (u - knee) / 4) above, u = x / s + round(z)."""
    assert zero_point is not None
    above_knee = x / clamp_scale(scale) + (zero_point.round() - qmax // 2)
    return torch.minimum(above_knee, above_knee / RATIO).round_().add_(qmax // 2)


def piecewise_values(
    codes: torch.Tensor, qmax: int, scale: torch.Tensor, zero_point: torch.Tensor | None
) -> torch.Tensor:
    """Return (u - round(z)) * s, where u is the code up to the knee and knee + 4 (code - knee) above."""
    assert zero_point is not None
    above_knee = codes - qmax // 2
    above_knee = torch.maximum(above_knee, above_knee * RATIO)
    return (above_knee + (qmax // 2 - zero_point.round())).mul_(clamp_scale(scale))


@register_format("piecewise")
class PiecewiseQuantizer(Quantizer):
    """Two uniform ranges that meet at code 2^(b-1) - 1, with steps s and 4 s, for one-sided tensors such as GELU's.

    Source: twin uniform (PTQ4ViT, arXiv 2111.12293) and piecewise linear (PWLQ, arXiv 2002.00104); ranges that meet
    and the ratio 4 are vitq's choice: of 2, 3, 4 and 8 it gave the least error behind GELUs at 3, 4 and 6 bits.
    """

    kernel: ClassVar[Kernel] = Kernel("piecewise", piecewise_raw_codes, piecewise_values)
    lowering: ClassVar[str] = "two ranges bent into one by LeakyRelu; the values are uint8 with one scale; int8 kernels"
    parameter_names: ClassVar[tuple[str, ...]] = ("scale", "zero_point")
    zero_point: torch.nn.Parameter

    def __init__(self, format: Format, axis: int | None = None) -> None:
        super().__init__(format, axis)
        if format.symmetric:
            raise RecipeError("format 'piecewise' has one fine end; remove 'symmetric'")

    @classmethod
    def steps(cls, bits: int) -> int:
        """Return how many s lie between the lowest and the highest value."""
        return int(2**bits - 1 + (RATIO - 1) * 2 ** (bits - 1))

    @classmethod
    def from_range(
        cls, low: torch.Tensor, high: torch.Tensor, bits: int, symmetric: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scale and zero point that cover [low, high]; zero is one of the fine values."""
        coarser = cls.steps(bits) / (2**bits - 1)
        scale, _ = affine_from_range(low / coarser, high / coarser, bits)
        zero = (-low.clamp(max=0.0) / scale).round().clamp(0, 2 ** (bits - 1) - 1)
        return scale, zero
