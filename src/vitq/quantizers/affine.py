"""Affine quantization: codes = clamp(round(x / s) + round(z), 0, 2^b - 1), x̂ = (codes - round(z)) * s."""

from typing import ClassVar

import torch
from torch import nn

from vitq.quantizers.base import Quantizer
from vitq.quantizers.kernels import LARGEST_SCALE, SMALLEST_SCALE, Kernel, clamp_scale
from vitq.quantizers.registry import register_format
from vitq.quantizers.simulation import fake_quantize


def affine_raw_codes(x: torch.Tensor, qmax: int, scale: torch.Tensor, zero_point: torch.Tensor | None) -> torch.Tensor:
    """Return round_half_even(x / s) + round(z), before clamping; division, never multiplication by 1 / s."""
    assert zero_point is not None
    return (x / clamp_scale(scale)).round_().add_(zero_point.round())


def affine_values(codes: torch.Tensor, qmax: int, scale: torch.Tensor, zero_point: torch.Tensor | None) -> torch.Tensor:
    """Return (codes - round(z)) * s."""
    assert zero_point is not None
    return (codes - zero_point.round()).mul_(clamp_scale(scale))


AFFINE = Kernel("affine", affine_raw_codes, affine_values)


def fake_quantize_affine(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    qmax: int,
    keep_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Simulate affine quantization, with gradients for x, scale and zero point; see ``fake_quantize``."""
    return fake_quantize(AFFINE, x, qmax, scale, zero_point, keep_mask)


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
class AffineQuantizer(Quantizer):
    """Uniform quantizer with scale and zero point; symmetric fixes the zero point at 2^(bits-1)."""

    kernel: ClassVar[Kernel] = AFFINE
    lowering: ClassVar[str] = (
        "QuantizeLinear and DequantizeLinear on uint8 with a Clip to the b-bit range; int8 kernels"
    )
    parameter_names: ClassVar[tuple[str, ...]] = ("scale", "zero_point")
    zero_point: nn.Parameter

    @classmethod
    def steps(cls, bits: int) -> int:
        """Return how many s lie between the lowest and the highest value."""
        return int(2**bits) - 1

    @classmethod
    def from_range(
        cls, low: torch.Tensor, high: torch.Tensor, bits: int, symmetric: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``affine_from_range``."""
        return affine_from_range(low, high, bits, symmetric)

    def set_parameters(self, **tensors: torch.Tensor) -> None:
        """Set scale and zero point; a symmetric quantizer fixes its zero point itself."""
        if self.format.symmetric and "scale" in tensors:
            tensors = {
                **tensors,
                "zero_point": torch.full_like(tensors["scale"], 2 ** (self.format.bits - 1)),
            }
        super().set_parameters(**tensors)
