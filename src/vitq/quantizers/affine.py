"""Affine quantization: codes = clamp(round(x / s) + round(z), 0, 2^b - 1), x̂ = (codes - round(z)) * s."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from vitq.quantizers.codec import SCALE, ZERO_POINT, Codec, IntegerView, Parameter, Parameters
from vitq.quantizers.format import Format
from vitq.quantizers.registry import register_format
from vitq.quantizers.scales import LARGEST_SCALE, SMALLEST_SCALE, clamp_scale, free_range_qparams
from vitq.quantizers.simulation import fake_quantize


def affine_from_range(
    low: torch.Tensor, high: torch.Tensor, bits: int, symmetric: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float32 scale and integer zero point in [0, 2^bits - 1] that cover [low, high] and 0.

    Symmetric: z = 2^(bits-1) and s = 2 max(|low|, |high|) / (2^bits - 1): all codes are used and the error
    stays within s / 2 on the whole range, ends included. A zero range gets the smallest scale. Source: vitq.
    """
    qmax = 2**bits - 1
    low64, high64 = low.detach().double().clamp(max=0.0), high.detach().double().clamp(min=0.0)
    width = 2 * torch.maximum(-low64, high64) if symmetric else high64 - low64
    scale = (width / qmax).clamp(SMALLEST_SCALE, LARGEST_SCALE).float()
    if symmetric:
        return scale, torch.full_like(scale, 2 ** (bits - 1))
    return scale, (-low64 / scale.double()).round().clamp(0, qmax).float()


@register_format("affine")
@dataclass(frozen=True)
class Affine(Codec):
    """Uniform codes with scale and zero point; symmetric fixes the zero point at 2^(bits-1)."""

    lowering: ClassVar[str] = (
        "QuantizeLinear and DequantizeLinear on uint8 with a Clip to the b-bit range; int8 kernels"
    )
    parameters: ClassVar[tuple[Parameter, ...]] = (SCALE, ZERO_POINT)
    uniform: ClassVar[bool] = True

    def check(self, format: Format) -> None:
        """Both ways are fine."""

    def quantize(self, x: torch.Tensor, qmax: int, p: Parameters) -> torch.Tensor:
        """Return round_half_even(x / s) + round(z); division, never multiplication by 1 / s."""
        return (x / clamp_scale(p["scale"])).round_().add_(p["zero_point"].round())

    def dequantize(self, codes: torch.Tensor, qmax: int, p: Parameters) -> torch.Tensor:
        """Return (codes - round(z)) * s."""
        return (codes - p["zero_point"].round()).mul_(clamp_scale(p["scale"]))

    def choose_qparams(
        self, format: Format, low: torch.Tensor, high: torch.Tensor, must_hold_zero: bool = True
    ) -> Parameters:
        """See ``affine_from_range``."""
        if not must_hold_zero and not format.symmetric:
            return free_range_qparams(low, high, format.qmax)
        scale, zero_point = affine_from_range(low, high, format.bits, format.symmetric)
        return {"scale": scale, "zero_point": zero_point}

    def range_of(self, format: Format, p: Parameters) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the first and the last value; half a step more above for a symmetric format."""
        if format.symmetric:
            half = p["scale"] * format.qmax / 2
            return -half, half
        return -p["zero_point"] * p["scale"], (format.qmax - p["zero_point"]) * p["scale"]

    def completed(self, format: Format, p: Parameters) -> Parameters:
        """A symmetric format fixes its zero point itself."""
        if not format.symmetric or "scale" not in p:
            return p
        return {**p, "zero_point": torch.full_like(p["scale"], 2 ** (format.bits - 1))}

    def integer_view(self, format: Format, p: Parameters) -> IntegerView | None:
        """Return the codes as they are."""
        return IntegerView(p["scale"], p["zero_point"].round(), format.qmax)


AFFINE = Affine("affine")


def fake_quantize_affine(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    qmax: int,
    keep_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Simulate affine quantization, with gradients for x, scale and zero point; see ``fake_quantize``."""
    return fake_quantize(AFFINE, x, qmax, {"scale": scale, "zero_point": zero_point}, keep_mask)
