"""Logarithmic quantization to powers of two, for softmax probabilities: x̂ = s * 2^-code."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from vitq.quantizers.codec import Codec, IntegerView, Parameters
from vitq.quantizers.format import Format
from vitq.quantizers.registry import register_format
from vitq.quantizers.scales import OCTAVES, SMALLEST_SCALE, carrier, clamp_scale


@dataclass(frozen=True)
class Logarithm(Codec):
    """Base of the logarithmic formats: a scale (the largest value), no zero point, non-negative x.

    A format gives ``quantize``, with infinity for x <= 0, which clamps to the last code, and ``dequantize``.
    """

    signed: ClassVar[bool] = False
    lowering: ClassVar[str] = (
        "shift of the other operand by the code; runtimes have no such kernel, so float Log and Gather"
    )

    def choose_qparams(
        self, format: Format, low: torch.Tensor, high: torch.Tensor, must_hold_zero: bool = True
    ) -> Parameters:
        """Return the upper end: it is all that counts."""
        return {"scale": high.clamp(min=SMALLEST_SCALE)}

    def range_of(self, format: Format, p: Parameters) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the largest value and, so that a part of the width is one of it, its mirror image."""
        return -p["scale"], p["scale"]

    def one_sided(self, format: Format) -> bool:
        """The lower end is zero."""
        return True

    def resolution(self, x: torch.Tensor, qmax: int, p: Parameters) -> torch.Tensor:
        """Values are a factor apart."""
        return x.abs()


@register_format("log2")
@dataclass(frozen=True)
class Log2(Logarithm):
    """code = clamp(round(-log2(x / s)), 0, 2^b - 1), x̂ = s * 2^-code for every code (RepQ-ViT, FQ-ViT)."""

    def quantize(self, x: torch.Tensor, qmax: int, p: Parameters) -> torch.Tensor:
        """Return round(-log2(x / s))."""
        return (x / clamp_scale(p["scale"])).clamp_(min=0.0).log2_().neg_().round_()

    def dequantize(self, codes: torch.Tensor, qmax: int, p: Parameters) -> torch.Tensor:
        """Return s * 2^-code."""
        return torch.exp2(-codes).mul_(clamp_scale(p["scale"]))

    def last(self, qmax: int) -> int:
        """Return the last code that means a power of two."""
        return qmax

    def whole_steps(self, format: Format, p: Parameters) -> IntegerView | None:
        """Return powers of two as whole multiples of the least, or of 2^-32 of the largest, below which they are 0."""
        last = min(self.last(format.qmax), OCTAVES)

        def spread(codes: torch.Tensor) -> torch.Tensor:
            powers = torch.bitwise_left_shift(1, (last - codes.long()).clamp(min=0))
            return torch.where(codes > last, 0, powers).to(carrier(2**last))

        scale = clamp_scale(p["scale"])
        return IntegerView(scale * 2.0**-last, torch.zeros_like(scale), 2**last, spread)


@register_format("log2_flush")
@dataclass(frozen=True)
class Log2Flush(Log2):
    """Log2 whose last code means 0 (AdaLog flushes beyond the last code, which needs one code more; vitq)."""

    def last(self, qmax: int) -> int:
        """Return the last code but one."""
        return qmax - 1

    def dequantize(self, codes: torch.Tensor, qmax: int, p: Parameters) -> torch.Tensor:
        """Return s * 2^-code, and 0 for the last code."""
        return torch.where(codes == qmax, 0.0, Log2.dequantize(self, codes, qmax, p))
