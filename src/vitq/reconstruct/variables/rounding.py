"""AdaRound: learn for each weight whether it is rounded down or up."""

import torch
from torch import nn

from vitq.quantizers import Quantizer

GAMMA, ZETA = -0.1, 1.1


def rectified_sigmoid(v: torch.Tensor) -> torch.Tensor:
    """Return h(V) = clip(σ(V)(ζ-γ)+γ, 0, 1). Source: AdaRound (arXiv 2004.10568), equation 23."""
    return torch.clamp(torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA, 0.0, 1.0)


def initial_v(fraction: torch.Tensor) -> torch.Tensor:
    """Return V with h(V) = ``fraction``, so that training starts at the floating-point weight."""
    return -torch.log((ZETA - GAMMA) / (fraction.clamp(1e-4, 1 - 1e-4) - GAMMA) - 1)


def rounding_penalty(h: torch.Tensor, beta: float | torch.Tensor) -> torch.Tensor:
    """Return Σ (1 - |2h - 1|^β), which pushes every h to 0 or 1. Source: AdaRound, equation 24."""
    return (1 - (2 * h - 1).abs().pow(beta)).sum()


class AdaRound(nn.Module):
    """Stands in for a weight's quantizer of uniform codes while its rounding is learnt.

    ŵ = s · (clip(⌊w/s⌋ + h(V) + z, 0, 2^b-1) - z), so the learnt weight never leaves the code range.
    """

    def __init__(self, quantizer: Quantizer, weight: torch.Tensor) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.shape = weight.shape
        ratio = quantizer.grouped(weight.detach()) / quantizer.arguments()["scale"]
        self.register_buffer("floor", ratio.floor())
        self.v = nn.Parameter(initial_v(ratio - ratio.floor()))

    floor: torch.Tensor

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the softly rounded weight; the stored weight itself is not read."""
        return self._value(rectified_sigmoid(self.v))

    @torch.no_grad()
    def hardened(self) -> torch.Tensor:
        """Return the weight with every decision made."""
        return self._value((self.v >= 0).to(self.floor.dtype))

    def _value(self, h: torch.Tensor) -> torch.Tensor:
        parameters = self.quantizer.arguments()
        zero = parameters["zero_point"].round()
        codes = torch.clamp(self.floor + h + zero, 0, self.quantizer.format.qmax)
        return ((codes - zero) * parameters["scale"]).reshape(self.shape)
