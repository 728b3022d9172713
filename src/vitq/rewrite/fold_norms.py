"""Step ``fold_norms``: move a norm's scale and bias into the layers behind it, so that it is plain.

γ x̂ + β read by W is x̂ read by W diag(γ), with W β in the layer's bias. What rotates a residual stream needs it so.
Source: SliceGPT (ICLR 2024), QuaRot (NeurIPS 2024), for layers of any kind (vitq).
"""

from typing import TYPE_CHECKING

import torch

from vitq.graph.queries import AffineNorm
from vitq.rewrite.affine import SMALLEST_SCALE, absorb, stored, transform
from vitq.rewrite.norms import find_norms, require_floating, warn
from vitq.run.step import Step, register_step

if TYPE_CHECKING:
    from vitq.run.run import Run


@register_step("fold_norms")
class FoldNorms(Step):
    """Leave norms with scale 1 and bias 0; run it before ``insert``.

    Where a bias cannot move (padding behind the norm), the scale moves alone and the bias stays as β / γ, with a
    warning.
    """

    def apply(self, run: "Run") -> None:
        """Rewrite ``run.student`` behind every norm that allows it; a warning names each other one."""
        require_floating(run.student, "fold_norms")
        run.events.log("fold_norms", norms=sum([_fold(run, norm) for norm in find_norms(run)]))


@torch.no_grad()
def _fold(run: "Run", norm: AffineNorm) -> bool:
    """Fold one norm and tell whether there was anything to fold."""
    gamma, beta = stored(run.student, norm.scale), stored(run.student, norm.bias)
    if gamma is None and beta is None:
        return False
    ratio_C = torch.ones(norm.channels, dtype=torch.float64) if gamma is None else gamma.double().flatten().clone()
    stays = beta is not None and bool(norm.no_shift)
    if beta is not None and stays and bool(beta.any()):
        warn(run, norm)
    least = SMALLEST_SCALE * ratio_C.abs().max() if stays else 0.0
    still_C = ratio_C.abs() <= least
    offset_C = None if beta is None or stays else beta.double().flatten().clone()
    transform(run.student, norm, torch.where(still_C, torch.ones_like(ratio_C), ratio_C), offset_C)
    if gamma is not None and not stays:  # a channel of scale 0 gave its bias alone, which has moved
        gamma.masked_fill_(still_C.reshape(gamma.shape), 1.0)
        absorb(run.student, norm.consumers, (~still_C).double(), None)
    return True
