"""Logarithmic quantization to powers of √2 (RepQ-ViT, ICCV 2023, eq. 13-15)."""

import math
from typing import ClassVar

import torch

from vitq.quantizers.kernels import Kernel, clamp_scale
from vitq.quantizers.log2 import LogQuantizer
from vitq.quantizers.registry import register_format


def log_sqrt2_raw_codes(
    x: torch.Tensor, qmax: int, scale: torch.Tensor, zero_point: torch.Tensor | None
) -> torch.Tensor:
    """Return round(-2 log2(x / s)); infinity for x <= 0, which clamps to the last code."""
    return (x / clamp_scale(scale)).clamp_(min=0.0).log2_().mul_(-2.0).round_()


def log_sqrt2_values(
    codes: torch.Tensor, qmax: int, scale: torch.Tensor, zero_point: torch.Tensor | None
) -> torch.Tensor:
    """Return s * 2^-ceil(code / 2) * (√2 if the code is odd else 1)."""
    half = (codes * 0.5).ceil_()
    odd = half + half - codes
    return torch.exp2(-half).mul_(1.0 + odd * (math.sqrt(2.0) - 1.0)).mul_(clamp_scale(scale))


@register_format("log_sqrt2")
class LogSqrt2Quantizer(LogQuantizer):
    """code = clamp(round(-2 log2(x / s)), 0, 2^b - 1), x̂ = s * 2^-ceil(code / 2) * √2^(code odd)."""

    kernel: ClassVar[Kernel] = Kernel("log_sqrt2", log_sqrt2_raw_codes, log_sqrt2_values)
    lowering: ClassVar[str] = (
        "shift by half the code with a parity-selected scale; runtimes have no such kernel, so float"
    )
