"""Logarithmic quantization to powers of two, for softmax probabilities: x̂ = s * 2^-code."""

from typing import ClassVar

import torch

from vitq.errors import RecipeError
from vitq.quantizers.base import Quantizer
from vitq.quantizers.format import Format
from vitq.quantizers.kernels import Kernel, clamp_scale
from vitq.quantizers.registry import register_format


def log2_raw_codes(x: torch.Tensor, qmax: int, scale: torch.Tensor, zero_point: torch.Tensor | None) -> torch.Tensor:
    """Return round(-log2(x / s)); infinity for x <= 0, which clamps to the last code."""
    return (x / clamp_scale(scale)).clamp_(min=0.0).log2_().neg_().round_()


def log2_values(codes: torch.Tensor, qmax: int, scale: torch.Tensor, zero_point: torch.Tensor | None) -> torch.Tensor:
    """Return s * 2^-code."""
    return torch.exp2(-codes).mul_(clamp_scale(scale))


def log2_flush_values(
    codes: torch.Tensor, qmax: int, scale: torch.Tensor, zero_point: torch.Tensor | None
) -> torch.Tensor:
    """Return s * 2^-code, and 0 for the last code."""
    return torch.where(codes == qmax, 0.0, log2_values(codes, qmax, scale, zero_point))


class LogQuantizer(Quantizer):
    """Base of the logarithmic formats: a scale (the largest value), no zero point, non-negative x."""

    signed = False

    def __init__(self, format: Format, axis: int | None = None) -> None:
        super().__init__(format, axis)
        if format.symmetric:
            raise RecipeError(f"format '{format.name}' has no sign; remove 'symmetric'")


@register_format("log2")
class Log2Quantizer(LogQuantizer):
    """code = clamp(round(-log2(x / s)), 0, 2^b - 1), x̂ = s * 2^-code for every code (RepQ-ViT, FQ-ViT)."""

    kernel: ClassVar[Kernel] = Kernel("log2", log2_raw_codes, log2_values)
    lowering: ClassVar[str] = (
        "shift of the other operand by the code; runtimes have no such kernel, so float Log and Gather"
    )


@register_format("log2_flush")
class Log2FlushQuantizer(LogQuantizer):
    """Log2 whose last code means 0 (AdaLog flushes beyond the last code, which needs one code more; vitq)."""

    kernel: ClassVar[Kernel] = Kernel("log2_flush", log2_raw_codes, log2_flush_values)
    lowering: ClassVar[str] = Log2Quantizer.lowering
