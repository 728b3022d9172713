"""Power-of-two factors (PTF of FQ-ViT, IJCAI 2022, arXiv 2111.13824): one scale, times a power of two for each channel.

For what norms read, whose channels differ widely: integers of all channels meet in one norm by shifts.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vitq.quantizers.affine import affine_from_range
from vitq.quantizers.codec import Codec, IntegerView, Parameter, Parameters
from vitq.quantizers.format import Format
from vitq.quantizers.registry import register_format
from vitq.quantizers.scales import clamp_scale, total

FACTORS = tuple(2.0**power for power in range(8))
"""2^0 to 2^K. K is 3 in the paper; ViT-Tiny has a channel of 114 times the median range, so it is 7 here."""

SHARED = (
    Parameter("scale", positive=True, learnt="scale", shared=True),
    Parameter("zero_point", learnt="codes", shared=True),
)
"""One scale and one zero point for all channels."""


@register_format("power_of_two_factor")
@dataclass(frozen=True)
class PowerOfTwoFactor(Codec):
    """code = clamp(round(x / (factor * s)) + round(z)), x̂ = (code - round(z)) * factor * s.

    As in the paper the widest channel has the largest factor, and each channel the factor of least squared error; that
    the common range is searched too is vitq's choice.
    """

    lowering: ClassVar[str] = "affine codes with a scale per channel, in floating point; integer norms would shift"
    parameters: ClassVar[tuple[Parameter, ...]] = (*SHARED, Parameter("factor", positive=True))

    def factor(self, p: Parameters) -> Tensor:
        """Return by what each channel multiplies the scale."""
        return p["factor"]

    def quantize(self, x: Tensor, qmax: int, p: Parameters) -> Tensor:
        """Return round(x / (factor * s)) + round(z)."""
        return (x / (clamp_scale(p["scale"]) * self.factor(p))).round_().add_(p["zero_point"].round())

    def dequantize(self, codes: Tensor, qmax: int, p: Parameters) -> Tensor:
        """Return (code - round(z)) * factor * s."""
        return (codes - p["zero_point"].round()) * (clamp_scale(p["scale"]) * self.factor(p))

    def choose_qparams(self, format: Format, low: Tensor, high: Tensor, must_hold_zero: bool = True) -> Parameters:
        """Return what covers the ranges of all channels, each with the least factor that covers its own."""
        scale, zero = affine_from_range(low.amin() / FACTORS[-1], high.amax() / FACTORS[-1], format.bits)
        wanted = torch.maximum(-low / zero.clamp(min=1), high / (format.qmax - zero).clamp(min=1)) / scale
        return {"scale": scale, "zero_point": zero, "factor": next_power(wanted, FACTORS[-1])}

    def range_of(self, format: Format, p: Parameters) -> tuple[Tensor, Tensor]:
        """Return the first and the last value of each channel."""
        step = p["scale"] * self.factor(p)
        return -p["zero_point"] * step, (format.qmax - p["zero_point"]) * step

    def candidates(
        self,
        format: Format,
        low_KG: Tensor,
        high_KG: Tensor,
        must_hold_zero: bool = True,
        start: Parameters | None = None,
    ) -> Parameters:
        """Return the common range of all channels with each factor; searches then choose one for each channel."""
        divisor = FACTORS[-1] if start is None else self.factor(start)
        ends = (low_KG / divisor).amin(1, keepdim=True), (high_KG / divisor).amax(1, keepdim=True)
        scale_K1, zero_K1 = affine_from_range(*ends, format.bits)
        factor_FG = torch.tensor(FACTORS, device=low_KG.device)[:, None].expand(-1, low_KG.shape[1])
        each = {"scale": scale_K1, "zero_point": zero_K1}
        spread = {name: tensor.repeat_interleave(len(FACTORS), 0) for name, tensor in each.items()}
        return {**spread, "factor": factor_FG.repeat(len(low_KG), 1)}

    def integer_view(self, format: Format, p: Parameters) -> IntegerView | None:
        """Return the codes as they are, of a scale per channel."""
        step = p["scale"] * self.factor(p)
        return IntegerView(step, p["zero_point"].round().expand_as(step), format.qmax)

    def resolution(self, x: Tensor, qmax: int, p: Parameters) -> Tensor:
        """Return the step of each channel."""
        return p["scale"] * self.factor(p)

    def gradients(
        self, through: Tensor, x: Tensor, codes: Tensor, values: Tensor, inside: Tensor, qmax: int, p: Parameters
    ) -> dict[str, Tensor]:
        """Return those of the affine laws; one more zero point shifts a channel by its own step."""
        found = super().gradients(through, x, codes, values, inside, qmax, {"scale": p["scale"]})
        outside = torch.where(inside, 0.0, through) * self.resolution(x, qmax, p)
        return {**found, "zero_point": -total(outside, p["zero_point"].shape)}


def next_power(wanted: Tensor, most: float) -> Tensor:
    """Return the least power of two that is not below ``wanted`` by more than rounding, from 1 to ``most``."""
    return torch.exp2((wanted.clamp(min=1.0) * (1 - 1e-3)).log2().ceil().clamp(min=0.0)).clamp(max=most)
