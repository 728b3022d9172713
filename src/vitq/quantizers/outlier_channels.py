"""One scale for outlier channels, one for the others (O-2SF of TSPTQ-ViT, arXiv 2305.12901), for norm inputs."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vitq.quantizers.affine import affine_from_range
from vitq.quantizers.codec import Parameter, Parameters
from vitq.quantizers.format import Format
from vitq.quantizers.power_of_two_factor import SHARED, PowerOfTwoFactor, next_power
from vitq.quantizers.registry import register_format

OUTLYING = 4.0
"""How many times larger than the median one a channel's largest magnitude is where it is an outlier."""

MOST = 8
"""Outlier channels at most: the largest ones."""

LARGEST_RATIO = 256.0
"""How many times larger the scale of outliers is at most."""


@register_format("outlier_channels")
@dataclass(frozen=True)
class OutlierChannels(PowerOfTwoFactor):
    """One scale and, for the few channels with ``outlier`` 1, ``ratio`` times that scale, a power of two.

    The paper says that few channels have a scale of their own. Which ones (at most 8, beyond four times the median),
    and that their scale is a power of two times the common one, whose exponent is searched, is vitq's reading.
    """

    parameters: ClassVar[tuple[Parameter, ...]] = (
        *SHARED,
        Parameter("ratio", positive=True, shared=True),
        Parameter("outlier"),
    )

    def factor(self, p: Parameters) -> Tensor:
        """Return the ratio for outliers and 1 for the others."""
        return 1 + p["outlier"] * (p["ratio"] - 1)

    def choose_qparams(self, format: Format, low: Tensor, high: Tensor, must_hold_zero: bool = True) -> Parameters:
        """Return what covers the ranges of the others, and the least ratio that covers those of the outliers."""
        found = self._covering(format, low.reshape(1, -1), high.reshape(1, -1))
        outlier = found["outlier"].reshape(low.shape)
        return {**{name: tensor.reshape(()) for name, tensor in found.items() if name != "outlier"}, "outlier": outlier}

    def candidates(
        self,
        format: Format,
        low_KG: Tensor,
        high_KG: Tensor,
        must_hold_zero: bool = True,
        start: Parameters | None = None,
    ) -> Parameters:
        """Return for each range the ratio that covers the outliers and its neighbours; ``start`` keeps its outliers."""
        found = self._covering(format, low_KG, high_KG, None if start is None else start["outlier"])
        ratios = [(found["ratio"] * part).clamp(1.0, LARGEST_RATIO) for part in (0.25, 0.5, 1.0, 2.0)]
        return {name: torch.cat(ratios) if name == "ratio" else t.repeat(len(ratios), 1) for name, t in found.items()}

    def _covering(
        self, format: Format, low_KG: Tensor, high_KG: Tensor, outlier_KG: Tensor | None = None
    ) -> Parameters:
        magnitude_KG = torch.maximum(-low_KG, high_KG)
        if outlier_KG is None:
            limit_K1 = OUTLYING * magnitude_KG.median(1, keepdim=True).values
            kept = magnitude_KG.topk(min(MOST + 1, magnitude_KG.shape[1]), 1).values[:, -1:]
            last_K1 = kept if magnitude_KG.shape[1] > MOST else torch.zeros_like(kept)
            outlier_KG = (magnitude_KG > torch.maximum(limit_K1, last_K1)).float()
        others = 1 - outlier_KG
        scale_K1, zero_K1 = affine_from_range(
            (low_KG * others).amin(1, keepdim=True), (high_KG * others).amax(1, keepdim=True), format.bits
        )
        low_K1, high_K1 = (low_KG * outlier_KG).amin(1, keepdim=True), (high_KG * outlier_KG).amax(1, keepdim=True)
        wanted_K1 = torch.maximum(-low_K1 / zero_K1.clamp(min=1), high_K1 / (format.qmax - zero_K1).clamp(min=1))
        ratio_K1 = next_power(wanted_K1 / scale_K1, LARGEST_RATIO)
        return {"scale": scale_K1, "zero_point": zero_K1, "ratio": ratio_K1, "outlier": outlier_KG.expand_as(low_KG)}
