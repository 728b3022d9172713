"""Twin uniform quantization that splits by sign, for tensors whose negative values are small, such as a GELU's."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vitq.quantizers.format import Format
from vitq.quantizers.registry import register_format
from vitq.quantizers.twin import Twin


@register_format("twin_sign")
@dataclass(frozen=True)
class TwinSign(Twin):
    """Split by sign (PTQ4ViT, arXiv 2111.12293); how many codes are negative follows from the range (vitq)."""

    def split(self, qmax: int, zero: Any) -> Any:
        """Return the code of zero."""
        return zero

    def cover(self, format: Format, below: Tensor, high: Tensor, ratio: Tensor) -> Tensor:
        """Return the scale with which below / s fine codes and the coarse rest reach both ends."""
        return (high + ratio * below) / (ratio * format.qmax)
