"""Codebook quantization of weights: every channel has a sorted table of 2^b values, and a code is a place in it.

The table is a weighted k-means of the channel's values. Source: Deep Compression (arXiv 1510.00149) and SqueezeLLM
(arXiv 2306.07629); the starts of the k-means are vitq's choice.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vitq.quantizers.codec import Codec, Parameter, Parameters
from vitq.quantizers.format import Format
from vitq.quantizers.kmeans import k_means, middles
from vitq.quantizers.registry import register_format
from vitq.quantizers.scales import SMALLEST_SCALE


@register_format("codebook")
@dataclass(frozen=True)
class Codebook(Codec):
    """x̂ = the value of a table nearest to x; weights only."""

    lowering: ClassVar[str] = "GatherElements of the table by the codes: small in the file, floating point in a runtime"
    parameters: ClassVar[tuple[Parameter, ...]] = (Parameter("table", own=lambda bits: (2**bits,)),)
    weights_only: ClassVar[bool] = True

    def quantize(self, x: Tensor, qmax: int, p: Parameters) -> Tensor:
        """Return how many middles of neighbouring values are below x."""
        codes = torch.zeros_like(x)
        for middle in middles(p["table"]).unbind(-1):
            codes = codes + (x > middle)
        return codes

    def dequantize(self, codes: Tensor, qmax: int, p: Parameters) -> Tensor:
        """Return the value at each place of the table."""
        table = p["table"].expand(*codes.shape, -1)
        return table.gather(-1, codes.long().unsqueeze(-1)).squeeze(-1)

    def choose_qparams(self, format: Format, low: Tensor, high: Tensor, must_hold_zero: bool = True) -> Parameters:
        """Return values at equal distances from low to high."""
        unit = torch.linspace(0, 1, format.qmax + 1, device=low.device)
        return {"table": low.unsqueeze(-1) * (1 - unit) + high.unsqueeze(-1) * unit}

    def range_of(self, format: Format, p: Parameters) -> tuple[Tensor, Tensor]:
        """Return the first and the last value."""
        return p["table"][..., 0], p["table"][..., -1]

    def candidates(
        self,
        format: Format,
        low_KG: Tensor,
        high_KG: Tensor,
        must_hold_zero: bool = True,
        start: Parameters | None = None,
    ) -> Parameters:
        """Return values at equal distances; for a local search the table that it starts from, stretched to ranges."""
        if start is None:
            return self.choose_qparams(format, low_KG, high_KG)
        first, last = self.range_of(format, start)
        unit = (start["table"] - first.unsqueeze(-1)) / (last - first).clamp(min=SMALLEST_SCALE).unsqueeze(-1)
        return {"table": low_KG.unsqueeze(-1) + unit * (high_KG - low_KG).unsqueeze(-1)}

    def fit(self, format: Format, values_GN: Tensor, weights_GN: Tensor) -> Parameters | None:
        """Return a weighted k-means of each group."""
        return {"table": k_means(values_GN, weights_GN, format.qmax + 1).float()[None]}

    def resolution(self, x: Tensor, qmax: int, p: Parameters) -> Tensor:
        """Return the mean distance of neighbouring values."""
        return ((p["table"][..., -1] - p["table"][..., 0]) / qmax).clamp(min=SMALLEST_SCALE)

    def value_range(self, qmax: int, p: Parameters) -> tuple[Tensor, Tensor]:
        """Return the first and the last value."""
        return p["table"][..., 0], p["table"][..., -1]
