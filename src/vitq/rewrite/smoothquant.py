"""Step ``smoothquant``: divide what norms give by a factor per channel, multiply the weights behind by it.

With s_c = max|x_c|^α / max|w_c|^(1-α), over all layers that read the norm, the norm gives x / s and the layers have
W diag(s). Nothing is left to compute when the model runs.
Source: Xiao, Lin, Seznec, Wu, Demouth, Han. SmoothQuant (ICML 2023, arXiv 2211.10438), equation 4 and its code.
"""

from typing import TYPE_CHECKING

import torch
from pydantic import Field

from vitq.graph.queries import AffineNorm
from vitq.rewrite.norms import Change, Seen, apply_to_norms
from vitq.rewrite.operands import output_error
from vitq.run.step import Step, register_step

if TYPE_CHECKING:
    from vitq.run.run import Run

SMALLEST = 1e-5
"""Least peak and least factor, as in the source's code."""


@register_step("smoothquant")
class SmoothQuant(Step):
    """Move outlier channels behind norms into the next layers' weights; run it before ``insert``.

    Of several ``alphas`` each norm takes the one of least output error with quantized operands (vitq); one alone is
    taken as it is, as in the source. ``images``: how many of the calibration images.
    """

    images: int = Field(32, ge=1)
    alphas: tuple[float, ...] = Field((0.5,), min_length=1)

    def apply(self, run: "Run") -> None:
        """Rewrite ``run.student`` behind every norm that allows it; a warning names each other one."""
        apply_to_norms(run, self.step_name, self.images, self._choose)

    def _choose(self, norm: AffineNorm, seen: Seen) -> Change:
        ratios = {alpha: factors(seen.peak_C, seen.weight_C, alpha) for alpha in self.alphas}
        best = self.alphas[0]
        if len(self.alphas) > 1:
            best = min(ratios, key=lambda alpha: output_error(seen.layers, ratios[alpha]))
        return Change(ratios[best], None, best)


def factors(peak_C: torch.Tensor, weight_C: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return peak^α / weight^(1-α) per channel; 1 for a channel that is constant, or that nobody uses (vitq)."""
    factor_C = peak_C.clamp(min=SMALLEST) ** alpha / weight_C.clamp(min=SMALLEST) ** (1 - alpha)
    return torch.where((peak_C > 0) & (weight_C > 0), factor_C.clamp(min=SMALLEST), torch.ones_like(factor_C))
