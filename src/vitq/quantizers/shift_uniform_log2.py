"""Shift-uniform-log2 (I&S-ViT, arXiv 2311.10126): uniform codes of -log2(x + shift), for softmax probabilities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vitq.quantizers.codec import SCALE, IntegerView, Parameter, Parameters
from vitq.quantizers.format import Format
from vitq.quantizers.log2 import Logarithm
from vitq.quantizers.registry import register_format
from vitq.quantizers.scales import carrier, clamp_scale


@register_format("shift_uniform_log2")
@dataclass(frozen=True)
class ShiftUniformLog2(Logarithm):
    """code = round((first - log2(x / s + shift)) / step), x̂ = s * (2^round(first - code * step) - shift).

    first is log2(1 + shift), and the steps reach from there to log2(shift). The paper searches the shift between .001
    and 1; powers of two, with which the last code is exactly 0, and the scale beside it are vitq's choice.
    """

    lowering: ClassVar[str] = "shift of the other operand and a sum; runtimes have no such kernel: float Log and Gather"
    parameters: ClassVar[tuple[Parameter, ...]] = (SCALE, Parameter("shift", positive=True))
    settings: ClassVar[Mapping[str, Sequence[float]]] = {"shift": tuple(2.0**-j for j in range(1, 11))}

    def quantize(self, x: Tensor, qmax: int, p: Parameters) -> Tensor:
        """Return the nearest code in the logarithm; values below 0 have the last one."""
        first, step = spacing(p["shift"], qmax)
        ratio = (x / clamp_scale(p["scale"])).clamp_(min=0.0)
        return (first - ratio.add_(p["shift"]).log2_()).div_(step).round_()

    def dequantize(self, codes: Tensor, qmax: int, p: Parameters) -> Tensor:
        """Return the power of a whole exponent, less the shift, in scales."""
        first, step = spacing(p["shift"], qmax)
        return torch.exp2((first - codes * step).round_()).sub_(p["shift"]).mul_(clamp_scale(p["scale"]))

    def choose_qparams(
        self, format: Format, low: Tensor, high: Tensor, must_hold_zero: bool = True, shift: Any = 2.0**-6
    ) -> Parameters:
        """Return the upper end as the scale."""
        chosen = super().choose_qparams(format, low, high)
        return {**chosen, "shift": torch.zeros_like(chosen["scale"]) + shift}

    def whole_steps(self, format: Format, p: Parameters) -> IntegerView | None:
        """Return powers of two less one in shifts, where these are powers of two as the searches give them."""
        first, step = spacing(p["shift"], format.qmax)
        down = -torch.log2(p["shift"])
        if not bool((down == down.round()).all() and (down >= 0).all()):
            return None
        steps = 2 ** int(first.max().round() + down.max()) - 1

        def spread(codes: Tensor) -> Tensor:
            exponent = (first - codes * step).round() + down
            return (torch.bitwise_left_shift(1, exponent.long()) - 1).to(carrier(steps))

        scale = clamp_scale(p["scale"]) * p["shift"]
        return IntegerView(scale, torch.zeros_like(scale), steps, spread)

    def resolution(self, x: Tensor, qmax: int, p: Parameters) -> Tensor:
        """Values and the shift together are a factor apart."""
        return x.abs() + p["shift"] * p["scale"]


def spacing(shift: Tensor, qmax: int) -> tuple[Tensor, Tensor]:
    """Return the logarithm of the largest value, and how far those of neighbouring codes are apart."""
    first = torch.log2(1 + shift)
    return first, (first - torch.log2(shift)) / qmax
