"""Subset quantization of weights (SubsetQ, ECCV 2022): values chosen from a set of sums of two powers of two."""

from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor

from vitq.errors import RecipeError
from vitq.quantizers.codebook import Codebook
from vitq.quantizers.codec import SCALE, IntegerView, Parameter, Parameters
from vitq.quantizers.format import Format
from vitq.quantizers.registry import register_format
from vitq.quantizers.scales import SMALLEST_SCALE, clamp_scale
from vitq.quantizers.subset_search import best_subset

POWERS = tuple(2.0**-i for i in range(6))
UNIVERSE = tuple(sorted({0.0, *POWERS, *(a + b for a, b in combinations(POWERS[1:], 2))}))
"""The 17 magnitudes that sums of at most two powers of two make, at most 1, down to 1/32."""

WHOLE = 32
"""All of them are whole multiples of 1 / WHOLE."""

CLIPS = tuple(1.0 - 0.05 * i for i in range(15))
"""Scales that are tried, in parts of the largest value."""


@register_format("subset")
@dataclass(frozen=True)
class Subset(Codebook):
    """x̂ = ± s * the nearest of 2^(b-1) ``levels``, a subset of ``UNIVERSE``; weights only, 2 to 4 bits.

    The paper enumerates subsets for each layer and alternates with the scale. That each channel has its own, the best
    for each scale of a grid by dynamic programming, and this set itself, is vitq's choice.
    """

    lowering: ClassVar[str] = "a table of all values by the codes: small in the file, floating point in a runtime"
    parameters: ClassVar[tuple[Parameter, ...]] = (SCALE, Parameter("levels", own=lambda bits: (2 ** (bits - 1),)))

    def check(self, format: Format) -> None:
        """It is symmetric by itself, and 5 bits would take nearly the whole set."""
        if format.symmetric:
            raise RecipeError(f"format '{self.name}' is always symmetric; remove 'symmetric'")
        if format.bits > 4:
            raise RecipeError(
                f"format '{self.name}' has 2 to 4 bits, not {format.bits}; write from_bits: {{5: affine}}"
            )

    def quantize(self, x: Tensor, qmax: int, p: Parameters) -> Tensor:
        """Return the code of the nearest value."""
        return super().quantize(x / clamp_scale(p["scale"]), qmax, {"table": signed(p["levels"])})

    def dequantize(self, codes: Tensor, qmax: int, p: Parameters) -> Tensor:
        """Return the signed level of each code, times the scale."""
        return super().dequantize(codes, qmax, {"table": signed(p["levels"])}) * clamp_scale(p["scale"])

    def choose_qparams(self, format: Format, low: Tensor, high: Tensor, must_hold_zero: bool = True) -> Parameters:
        """Return levels spread evenly over the set, the last of which is the larger end."""
        scale = clamp_scale(torch.maximum(-low, high))
        places = torch.linspace(0, len(UNIVERSE) - 1, 2 ** (format.bits - 1) + 1)[1:].round().long()
        levels = torch.tensor(UNIVERSE)[places].to(scale.device)
        return {"scale": scale, "levels": levels.expand(*scale.shape, -1)}

    def range_of(self, format: Format, p: Parameters) -> tuple[Tensor, Tensor]:
        """Return the lowest and the largest value."""
        return self.value_range(format.qmax, p)

    def one_sided(self, format: Format) -> bool:
        """The ends mirror one another."""
        return True

    def candidates(
        self,
        format: Format,
        low_KG: Tensor,
        high_KG: Tensor,
        must_hold_zero: bool = True,
        start: Parameters | None = None,
    ) -> Parameters:
        """Return levels spread evenly; for a local search the levels that it starts from, stretched to ranges."""
        if start is None:
            return self.choose_qparams(format, low_KG, high_KG)
        scale_KG = clamp_scale(high_KG / start["levels"][..., -1].clamp(min=SMALLEST_SCALE))
        return {"scale": scale_KG, "levels": start["levels"].expand(*scale_KG.shape, -1)}

    def fit(self, format: Format, values_GN: Tensor, weights_GN: Tensor) -> Parameters | None:
        """Return the best subset of each group at the best of its scales."""
        universe_P = torch.tensor(UNIVERSE, device=values_GN.device)
        scale_G, levels_GL = best_subset(values_GN.abs(), weights_GN, universe_P, 2 ** (format.bits - 1), CLIPS)
        return {"scale": scale_G[None], "levels": levels_GL[None]}

    def whole_steps(self, format: Format, p: Parameters) -> IntegerView | None:
        """Return multiples of 1/32 of the scale, from -32 to 32."""
        levels = signed(p["levels"]) * WHOLE

        def spread(codes: Tensor) -> Tensor:
            return (Codebook.dequantize(self, codes, format.qmax, {"table": levels}) + WHOLE).to(torch.uint8)

        scale = clamp_scale(p["scale"])
        return IntegerView(scale / WHOLE, torch.full_like(scale, WHOLE), 2 * WHOLE, spread)

    def resolution(self, x: Tensor, qmax: int, p: Parameters) -> Tensor:
        """Return the mean distance of neighbouring values."""
        return (2 * p["scale"] * p["levels"][..., -1] / qmax).clamp(min=SMALLEST_SCALE)

    def value_range(self, qmax: int, p: Parameters) -> tuple[Tensor, Tensor]:
        """Return the largest value, with both signs."""
        largest = clamp_scale(p["scale"]) * p["levels"][..., -1]
        return -largest, largest


def signed(levels: Tensor) -> Tensor:
    """Return levels with both signs, in order."""
    return torch.cat((-levels.flip(-1), levels), -1)
