"""Matthew-effect preserving quantization of softmax probabilities (APQ-ViT, ACM MM 2022, arXiv 2303.14341)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vitq.quantizers.codec import SCALE, Codec, IntegerView, Parameter, Parameters
from vitq.quantizers.format import Format
from vitq.quantizers.registry import register_format
from vitq.quantizers.scales import carrier, clamp_scale


@register_format("matthew")
@dataclass(frozen=True)
class Matthew(Codec):
    """x̂ = 0 for code 0, else (code + skipped) * s, with the largest value exact: s = largest / (2^b - 1 + skipped).

    Linear, never clipped at the top, and asymmetric: the more steps are skipped above 0, the finer are large values.
    The paper's code is not public; that the lower end is given up by whole steps, with 0 kept, is vitq's reading.
    """

    lowering: ClassVar[str] = "Clip and QuantizeLinear to steps, small ones to 0; uint8 with one scale, int8 kernels"
    parameters: ClassVar[tuple[Parameter, ...]] = (SCALE, Parameter("skipped"))
    signed: ClassVar[bool] = False
    settings: ClassVar[Mapping[str, Sequence[float]]] = {"skipped": (0, 1, 2, 3, 4, 6, 8, 11, 16, 23, 32)}

    def quantize(self, x: Tensor, qmax: int, p: Parameters) -> Tensor:
        """Return the code of the nearest value: 0 below the middle of the skipped steps."""
        steps = x / clamp_scale(p["scale"])
        return torch.where(steps > (p["skipped"] + 1) / 2, (steps.round() - p["skipped"]).clamp_(min=1.0), 0.0)

    def dequantize(self, codes: Tensor, qmax: int, p: Parameters) -> Tensor:
        """Return (code + skipped) * s, and 0 for code 0."""
        return torch.where(codes == 0, 0.0, codes + p["skipped"]).mul_(clamp_scale(p["scale"]))

    def choose_qparams(
        self, format: Format, low: Tensor, high: Tensor, must_hold_zero: bool = True, skipped: Any = 0.0
    ) -> Parameters:
        """Return the scale that makes the upper end the last value."""
        scale = clamp_scale(high.clamp(min=0.0) / (format.qmax + skipped))
        return {"scale": scale, "skipped": torch.zeros_like(scale) + skipped}

    def range_of(self, format: Format, p: Parameters) -> tuple[Tensor, Tensor]:
        """Return 0 and the largest value."""
        return torch.zeros_like(p["scale"]), (format.qmax + p["skipped"]) * p["scale"]

    def candidates(
        self,
        format: Format,
        low_KG: Tensor,
        high_KG: Tensor,
        must_hold_zero: bool = True,
        start: Parameters | None = None,
    ) -> Parameters:
        """Return all ``settings`` for the largest upper end alone, or for that of ``start``: it is never clipped."""
        high_1G = high_KG.amax(0, keepdim=True) if start is None else self.range_of(format, start)[1]
        return super().candidates(format, torch.zeros_like(high_1G), high_1G)

    def one_sided(self, format: Format) -> bool:
        """The lower end is zero."""
        return True

    def integer_view(self, format: Format, p: Parameters) -> IntegerView | None:
        """Return the steps themselves."""

        steps = int(format.qmax + p["skipped"].max())

        def spread(codes: Tensor) -> Tensor:
            return torch.where(codes == 0, 0.0, codes + p["skipped"]).to(carrier(steps))

        return IntegerView(p["scale"], torch.zeros_like(p["scale"]), steps, spread)
