"""Adaptive-base logarithm (AdaLog, ECCV 2024, arXiv 2407.12951): powers of 2^(-base / 37), and 0.

The base is searched. Powers are shifts by whole octaves of few numbers in [1/2, 1], which are multiples of
1 / (2^(b+1) - 2) as in the authors' code, so that integers hold them. Behind a GELU the values are shifted up by
``shift`` first, which the paper folds into the next bias.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vitq.quantizers.codec import SCALE, Codec, IntegerView, Parameter, Parameters
from vitq.quantizers.format import Format
from vitq.quantizers.registry import register_format
from vitq.quantizers.scales import INTEGER_STEPS, OCTAVES, SMALLEST_SCALE, carrier, clamp_scale

OCTAVE = 37
"""Bases are powers of 2^(1/37), a prime: the paper's r."""

MOVES = (-8.0, -4.0, -2.0, -1.0, 1.0, 2.0, 4.0, 8.0)
"""What a local search adds to the base."""


@register_format("adalog")
@dataclass(frozen=True)
class AdaLog(Codec):
    """code = round(-log2((x + shift) / s) / (base / 37)), x̂ = s * 2^(-base * code / 37) - shift; the last means 0.

    The paper's bases are 10 to 138 (37 is log2), and 0 has a code beyond its last one; that this code is one of the
    2^b, and that the scale and the shift are taken from the range (there 1 and 0.17), is vitq's choice.
    """

    lowering: ClassVar[str] = (
        "whole multiples of a scale, int8 kernels if 8 bits and no shift up; else float Log and Gather"
    )
    parameters: ClassVar[tuple[Parameter, ...]] = (SCALE, Parameter("base", positive=True), Parameter("shift"))
    settings: ClassVar[Mapping[str, Sequence[float]]] = {"base": (10, 14, 19, 26, 37, 52, 74, 104, 138)}

    def quantize(self, x: Tensor, qmax: int, p: Parameters) -> Tensor:
        """Return round(-log2((x + shift) / s) / (base / 37)), infinity for x <= -shift."""
        ratio = ((x + p["shift"]) / clamp_scale(p["scale"])).clamp_(min=0.0)
        return ratio.log2_().neg_().div_(p["base"] / OCTAVE).round_()

    def dequantize(self, codes: Tensor, qmax: int, p: Parameters) -> Tensor:
        """Return s * 2^-octaves * (a rounded power in [1/2, 1]) - shift, and -shift for the last code."""
        octaves, power = parts(codes, qmax, p["base"])
        powers = torch.where(codes == qmax, 0.0, torch.exp2(-octaves) * power.div_(2 * qmax))
        return powers.mul_(clamp_scale(p["scale"])).sub_(p["shift"])

    def choose_qparams(
        self, format: Format, low: Tensor, high: Tensor, must_hold_zero: bool = True, base: Any = float(OCTAVE)
    ) -> Parameters:
        """Return the lower end as the shift and the width as the scale."""
        shift = (0 - low).clamp(min=0.0)
        scale = clamp_scale((high + shift).clamp(min=SMALLEST_SCALE))
        return {"scale": scale, "base": torch.zeros_like(scale) + base, "shift": shift}

    def range_of(self, format: Format, p: Parameters) -> tuple[Tensor, Tensor]:
        """Return the lowest and the largest value."""
        return -p["shift"], p["scale"] - p["shift"]

    def candidates(
        self,
        format: Format,
        low_KG: Tensor,
        high_KG: Tensor,
        must_hold_zero: bool = True,
        start: Parameters | None = None,
    ) -> Parameters:
        """Return each upper end with all bases, or those near that of ``start``; the lower end is never clipped."""
        if start is None:
            ends_KG2 = torch.stack((low_KG.amin(0, keepdim=True).expand_as(low_KG), high_KG), 2).unique(dim=0)
            return super().candidates(format, *ends_KG2.unbind(2))
        high_KG = high_KG.unique(dim=0)
        low_KG = self.range_of(format, start)[0].expand_as(high_KG)
        moved = [self.choose_qparams(format, low_KG, high_KG, base=start["base"])]
        least, most = self.settings["base"][0], self.settings["base"][-1]
        moved += [{**start, "base": (start["base"] + move).clamp(least, most)} for move in MOVES]
        return {name: torch.cat([parameters[name] for parameters in moved]) for name in start}

    def whole_steps(self, format: Format, p: Parameters) -> IntegerView | None:
        """Return shifted powers as whole multiples of the least, or of 2^-32 of the largest, below which they are 0."""
        qmax = format.qmax
        last = parts(torch.full_like(p["base"], qmax - 1), qmax, p["base"])[0]
        deepest = min(int(last.max()), OCTAVES)
        steps = 2 * qmax * 2**deepest

        def spread(codes: Tensor) -> Tensor:
            octaves, power = parts(codes.float(), qmax, p["base"])
            whole = torch.bitwise_left_shift(power.long(), (deepest - octaves.long()).clamp(min=0))
            return torch.where((codes == qmax) | (octaves > deepest), 0, whole).to(carrier(steps))

        unit = clamp_scale(p["scale"]) / steps
        return IntegerView(unit, p["shift"] / unit, steps, spread)

    def integer_view(self, format: Format, p: Parameters) -> IntegerView | None:
        """Return these where 8 bits hold them and nothing is shifted up, as of probabilities with few octaves."""
        view = self.whole_steps(format, p)
        fits = view is not None and view.steps <= INTEGER_STEPS and not bool(p["shift"].any())
        return view if fits else None

    def resolution(self, x: Tensor, qmax: int, p: Parameters) -> Tensor:
        """Values above the lower end are a factor apart."""
        return (x + p["shift"]).abs() * (1 - torch.exp2(-p["base"] / OCTAVE))

    def gradients(
        self, through: Tensor, x: Tensor, codes: Tensor, values: Tensor, inside: Tensor, qmax: int, p: Parameters
    ) -> dict[str, Tensor]:
        """Return that of the scale, with which values above the lower end grow."""
        shifted = {"scale": p["scale"]}
        return super().gradients(through, x + p["shift"], codes, values + p["shift"], inside, qmax, shifted)


def parts(codes: Tensor, qmax: int, base: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many octaves each code lies below the scale, and the rest, in 1 / (2 qmax), as whole numbers."""
    exponent = codes * base
    octaves = (exponent / OCTAVE).floor()
    return octaves, torch.exp2((octaves * OCTAVE - exponent) / OCTAVE).mul_(2 * qmax).round_()
