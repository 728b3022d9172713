"""Twin uniform quantization: two uniform ranges with steps s and r s, r = 2^m, for tensors with two kinds of values.

Fine values are (code - z) s for codes below the split, coarse ones (code - split) r s from there on. So all are whole
multiples of s, and integer kernels take them where 8 bits hold z + (2^b - 1 - split) r. Half of the codes are fine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vitq.quantizers.codec import SCALE, Codec, IntegerView, Parameter, Parameters
from vitq.quantizers.format import Format
from vitq.quantizers.registry import register_format
from vitq.quantizers.scales import LARGEST_SCALE, SMALLEST_SCALE, carrier, clamp_scale


@register_format("twin")
@dataclass(frozen=True)
class Twin(Codec):
    """Split by magnitude (V-2SF of TSPTQ-ViT, arXiv 2305.12901); m is searched as in MPTQ-ViT (arXiv 2401.14895)."""

    lowering: ClassVar[str] = "the nearer of two rounded values: whole multiples of the scale, int8 kernels if 8 bits"
    parameters: ClassVar[tuple[Parameter, ...]] = (SCALE, Parameter("ratio", positive=True), Parameter("zero"))
    settings: ClassVar[Mapping[str, Sequence[float]]] = {"ratio": [2.0**m for m in range(16)]}  # enough, says PTQ4ViT

    def split(self, qmax: int, zero: Any) -> Any:
        """Return the first coarse code."""
        return (qmax + 1) // 2

    def limits(self, qmax: int, p: Parameters) -> tuple[Tensor, Tensor, Tensor]:
        """Return the lowest, the largest fine and the largest value, in scales."""
        split = self.split(qmax, p["zero"])
        return -p["zero"], split - 1 - p["zero"], (qmax - split) * p["ratio"]

    def quantize(self, x: Tensor, qmax: int, p: Parameters) -> Tensor:
        """Return the code of the nearer of the nearest fine and the nearest coarse value."""
        low, knee, top = self.limits(qmax, p)
        u = (x / clamp_scale(p["scale"])).clamp_(low, top)
        fine, coarse = u.round().clamp_(max=knee), (u / p["ratio"]).round_().clamp_(min=0.0)
        nearer = (coarse * p["ratio"]).sub_(u).abs_() < u.sub_(fine).abs_()
        return torch.where(nearer, coarse.add_(self.split(qmax, p["zero"])), fine.add_(p["zero"]))

    def dequantize(self, codes: Tensor, qmax: int, p: Parameters) -> Tensor:
        """Return the fine value below the split, the coarse one from there on."""
        above = codes - self.split(qmax, p["zero"])
        return torch.where(above < 0, codes - p["zero"], above * p["ratio"]).mul_(clamp_scale(p["scale"]))

    def cover(self, format: Format, below: Tensor, high: Tensor, ratio: Tensor) -> Tensor:
        """Return the scale with which codes reach from -below to high."""
        half = (format.qmax + 1) // 2
        return torch.maximum(high / ((half - 1) * ratio), below / half)

    def choose_qparams(
        self, format: Format, low: Tensor, high: Tensor, must_hold_zero: bool = True, ratio: Any = 4.0
    ) -> Parameters:
        """Return what covers [low, high] and zero with coarse steps of ``ratio`` fine ones."""
        below, above = (-low.double()).clamp(min=0), high.double().clamp(min=0)
        wanted = torch.zeros_like(above) + ratio
        scale = self.cover(format, below, above, wanted).clamp(min=SMALLEST_SCALE)
        scale = torch.minimum(scale, LARGEST_SCALE / wanted).float()
        zero = (below / scale).round().clamp(0, self.split(format.qmax, float(format.qmax)))
        return {"scale": scale, "ratio": wanted.float(), "zero": zero.float()}

    def range_of(self, format: Format, p: Parameters) -> tuple[Tensor, Tensor]:
        """Return the lowest and the largest value."""
        low, _, top = self.limits(format.qmax, p)
        return low * p["scale"], top * p["scale"]

    def resolution(self, x: Tensor, qmax: int, p: Parameters) -> Tensor:
        """Return the step of fine values up to the largest of them, that of coarse ones beyond."""
        knee = self.limits(qmax, p)[1].clamp(min=0)
        return torch.where(x > knee * p["scale"], p["scale"] * p["ratio"], p["scale"])

    def integer_view(self, format: Format, p: Parameters) -> IntegerView | None:
        """Return whole steps of the scale, counted from the lowest value."""
        (low, _, top), unit = self.limits(format.qmax, p), {**p, "scale": torch.ones_like(p["scale"])}

        steps = int((top - low).max())

        def spread(codes: Tensor) -> Tensor:
            return (self.dequantize(codes.float(), format.qmax, unit) - low).to(carrier(steps))

        return IntegerView(p["scale"], p["zero"], steps, spread)
