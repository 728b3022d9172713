"""Whole factors: one scale, times a whole number for each channel, and a zero point for each.

Nearly as fine as an affine range for each channel, and integers of all channels still meet in one norm, by products.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vitq.quantizers.affine import affine_from_range
from vitq.quantizers.codec import Parameter, Parameters
from vitq.quantizers.format import Format
from vitq.quantizers.power_of_two_factor import SHARED, PowerOfTwoFactor
from vitq.quantizers.registry import register_format
from vitq.quantizers.scales import clamp_scale

LARGEST = 1024
"""The widest channel's factor: channels that are a hundred times narrower have ten steps to choose theirs from."""


@register_format("whole_factor")
@dataclass(frozen=True)
class WholeFactor(PowerOfTwoFactor):
    """code = clamp(round(x / (factor * s)) + round(z)), x̂ = (code - round(z)) * factor * s, factor from 1 to 1024.

    Source: FQ-ViT's factors (IJCAI 2022, arXiv 2111.13824); that they are whole numbers and that each channel has its
    own zero point is vitq's choice.
    """

    lowering: ClassVar[str] = "affine codes with a scale per channel, in floating point; integer norms would multiply"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        SHARED[0],
        Parameter("zero_point", learnt="codes"),
        Parameter("factor", positive=True),
    )

    def choose_qparams(self, format: Format, low: Tensor, high: Tensor, must_hold_zero: bool = True) -> Parameters:
        """Return what covers the range of each channel by the least factor."""
        return self._covering(format, low, high, affine_from_range(low, high, format.bits)[0].amax() / LARGEST)

    def candidates(
        self,
        format: Format,
        low_KG: Tensor,
        high_KG: Tensor,
        must_hold_zero: bool = True,
        start: Parameters | None = None,
    ) -> Parameters:
        """Return for each range of each channel the least factor that covers it, of one scale or that of ``start``."""
        widest = affine_from_range(low_KG, high_KG, format.bits)[0].amax() / LARGEST
        found = self._covering(format, low_KG, high_KG, widest if start is None else start["scale"])
        return {**found, "scale": found["scale"].reshape(1, 1).expand(len(low_KG), 1)}

    def _covering(self, format: Format, low: Tensor, high: Tensor, scale: Tensor) -> Parameters:
        scale = clamp_scale(scale)
        wanted = affine_from_range(low, high, format.bits)[0] / scale
        factor = (wanted * (1 - 1e-6)).ceil().clamp(1, LARGEST)
        zero = (-low.clamp(max=0) / (scale * factor)).round().clamp(0, format.qmax)
        return {"scale": scale, "zero_point": zero, "factor": factor}
