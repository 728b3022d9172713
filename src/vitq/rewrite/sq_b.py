"""Step ``sq_b``: move each channel behind a norm to the middle of its range and scale it, into the layers behind.

With z_c = (max x_c + min x_c) / 2 and s_c = max|x_c - z_c|^α / max|w_c|^(1-α) the norm gives (x - z) / s, the layers
have W diag(s), and W z joins their biases. Nothing is left to compute when the model runs.
Source: SQ-b of Tai, Wu. MPTQ-ViT (WACV 2025, arXiv 2401.14895), as vitq reads it: the formulas are not public. The
shift is that of Outlier Suppression+ (EMNLP 2023), equation 3.
"""

from enum import StrEnum
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from vitq.graph.queries import AffineNorm
from vitq.rewrite.norms import Change, Seen, apply_to_norms, warn
from vitq.rewrite.operands import output_error
from vitq.rewrite.smoothquant import factors
from vitq.run.step import Step, register_step

if TYPE_CHECKING:
    from vitq.run.run import Run


class Order(StrEnum):
    """Which of both comes first, so whether a factor follows from the shifted channel or from the channel itself."""

    SHIFT_SCALE = "shift_scale"
    SCALE_SHIFT = "scale_shift"


@register_step("sq_b")
class SqB(Step):
    """Shift and scale channels behind norms, each norm with the α of least output error; run it before ``insert``.

    ``alphas`` are tried per norm with operands quantized as the steps ahead will quantize them; the norm as it is, and
    shifted alone, are always tried, too (vitq). Where nothing can take a shift up (an RMS norm, padding), the norm is
    scaled alone, with a warning. ``images``: how many of the calibration images.
    """

    images: int = Field(32, ge=1)
    alphas: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    order: Order = Order.SHIFT_SCALE

    def apply(self, run: "Run") -> None:
        """Rewrite ``run.student`` behind every norm that allows it; a warning names each other one."""

        def choose(norm: AffineNorm, seen: Seen) -> Change | None:
            if norm.no_shift:
                warn(run, norm)
            return self._choose(seen, shift=not norm.no_shift)

        apply_to_norms(run, self.step_name, self.images, choose)

    def _choose(self, seen: Seen, *, shift: bool) -> Change | None:
        middle_C = (seen.high_C + seen.low_C) / 2
        half_C = (seen.high_C - seen.low_C) / 2 if shift and self.order is Order.SHIFT_SCALE else seen.peak_C
        offset_C = middle_C if shift else None
        changes = [Change(factors(half_C, seen.weight_C, alpha), offset_C, alpha) for alpha in self.alphas]
        if shift:
            changes.append(Change(torch.ones_like(middle_C), middle_C, "shift"))
        errors = [output_error(seen.layers, change.ratio_C, change.offset_C) for change in changes]
        best = min(range(len(changes)), key=errors.__getitem__, default=None)
        return None if best is None or errors[best] >= output_error(seen.layers) else changes[best]
