"""Piecewise uniform quantization: fine steps for the many small values, four times coarser ones for the tail.

Half of the codes, from the lowest value up to the knee, are s apart, the other half 4 s. All values are whole
multiples of s, so up to six bits the decoded tensor is itself an eight-bit integer tensor.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from vitq.errors import RecipeError
from vitq.quantizers.affine import affine_from_range
from vitq.quantizers.codec import SCALE, ZERO_POINT, Codec, IntegerView, Parameter, Parameters
from vitq.quantizers.format import Format
from vitq.quantizers.registry import register_format
from vitq.quantizers.scales import carrier, clamp_scale, free_range_qparams

RATIO = 4
"""How many times coarser the steps above the knee are."""


def steps(bits: int) -> int:
    """Return how many s lie between the lowest and the highest value."""
    return int(2**bits - 1 + (RATIO - 1) * 2 ** (bits - 1))


@register_format("piecewise")
@dataclass(frozen=True)
class Piecewise(Codec):
    """Two uniform ranges that meet at code 2^(b-1) - 1, with steps s and 4 s, for one-sided tensors such as GELU's.

    Source: twin uniform (PTQ4ViT, arXiv 2111.12293) and piecewise linear (PWLQ, arXiv 2002.00104); ranges that meet
    and the ratio 4 are vitq's choice: of 2, 3, 4 and 8 it gave the least error behind GELUs at 3, 4 and 6 bits.
    """

    lowering: ClassVar[str] = "two ranges bent into one by LeakyRelu; the values are uint8 with one scale; int8 kernels"
    parameters: ClassVar[tuple[Parameter, ...]] = (SCALE, ZERO_POINT)

    def check(self, format: Format) -> None:
        """It cannot be symmetric."""
        if format.symmetric:
            raise RecipeError(f"format '{self.name}' has one fine end; remove 'symmetric'")

    def quantize(self, x: torch.Tensor, qmax: int, p: Parameters) -> torch.Tensor:
        """Return the nearest code: round(u), u = x / s + round(z), or above the knee round(knee + (u - knee) / 4)."""
        above_knee = x / clamp_scale(p["scale"]) + (p["zero_point"].round() - qmax // 2)
        return torch.minimum(above_knee, above_knee / RATIO).round_().add_(qmax // 2)

    def dequantize(self, codes: torch.Tensor, qmax: int, p: Parameters) -> torch.Tensor:
        """Return (u - round(z)) * s, where u is the code up to the knee and knee + 4 (code - knee) above."""
        above_knee = codes - qmax // 2
        above_knee = torch.maximum(above_knee, above_knee * RATIO)
        return (above_knee + (qmax // 2 - p["zero_point"].round())).mul_(clamp_scale(p["scale"]))

    def choose_qparams(
        self, format: Format, low: torch.Tensor, high: torch.Tensor, must_hold_zero: bool = True
    ) -> Parameters:
        """Return scale and zero point that cover [low, high]; zero is one of the fine values if it must be held."""
        if not must_hold_zero:
            return free_range_qparams(low, high, steps(format.bits))
        coarser = steps(format.bits) / format.qmax
        scale, _ = affine_from_range(low / coarser, high / coarser, format.bits)
        zero = (-low.clamp(max=0.0) / scale).round().clamp(0, 2 ** (format.bits - 1) - 1)
        return {"scale": scale, "zero_point": zero}

    def range_of(self, format: Format, p: Parameters) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the first and the last value."""
        return -p["zero_point"] * p["scale"], (steps(format.bits) - p["zero_point"]) * p["scale"]

    def resolution(self, x: torch.Tensor, qmax: int, p: Parameters) -> torch.Tensor:
        """Return the fine step up to the knee, the coarse one beyond."""
        knee = (qmax // 2 - p["zero_point"].round()) * p["scale"]
        return torch.where(x > knee, RATIO * p["scale"], p["scale"])

    def integer_view(self, format: Format, p: Parameters) -> IntegerView | None:
        """Return codes with four steps for each code above the knee: 8 bits hold them up to six bits."""
        knee, kind = format.qmax // 2, carrier(steps(format.bits))

        def spread(codes: torch.Tensor) -> torch.Tensor:
            codes = codes.to(kind)
            return codes + (RATIO - 1) * (codes.clamp(min=knee) - knee)

        return IntegerView(p["scale"], p["zero_point"].round(), steps(format.bits), spread)
