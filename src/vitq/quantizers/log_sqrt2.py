"""Logarithmic quantization to powers of √2 (RepQ-ViT, ICCV 2023, eq. 13-15)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from vitq.quantizers.codec import Parameters
from vitq.quantizers.log2 import Logarithm
from vitq.quantizers.registry import register_format
from vitq.quantizers.scales import clamp_scale


@register_format("log_sqrt2")
@dataclass(frozen=True)
class LogSqrt2(Logarithm):
    """code = clamp(round(-2 log2(x / s)), 0, 2^b - 1), x̂ = s * 2^-ceil(code / 2) * √2^(code odd)."""

    lowering: ClassVar[str] = (
        "shift by half the code with a parity-selected scale; runtimes have no such kernel, so float"
    )

    def quantize(self, x: torch.Tensor, qmax: int, p: Parameters) -> torch.Tensor:
        """Return round(-2 log2(x / s))."""
        return (x / clamp_scale(p["scale"])).clamp_(min=0.0).log2_().mul_(-2.0).round_()

    def dequantize(self, codes: torch.Tensor, qmax: int, p: Parameters) -> torch.Tensor:
        """Return s * 2^-ceil(code / 2) * (√2 if the code is odd else 1)."""
        half = (codes * 0.5).ceil_()
        odd = half + half - codes
        return torch.exp2(-half).mul_(1.0 + odd * (math.sqrt(2.0) - 1.0)).mul_(clamp_scale(p["scale"]))
