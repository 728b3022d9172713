"""Step ``gptaq``: round weights one column after another, each error made up for by what is not rounded yet.

Layer by layer, each on what the quantized layers before it give. Source: GPTAQ (arXiv 2504.02692); with strength 0 it
is GPTQ (arXiv 2210.17323). Passes of coordinate descent behind it are COMQ's (arXiv 2403.07134).
"""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from vitq.compensate.layers import QuantizedLayer
from vitq.compensate.rounding import Moments, bias_change, descend, round_columns, target
from vitq.compensate.walk import By, LayerStep
from vitq.run.step import register_step

if TYPE_CHECKING:
    from vitq.run.run import Run


@register_step("gptaq")
class Gptaq(LayerStep):
    """Round calibrated weights with GPTQ towards what makes up for quantized inputs, too; biases keep the mean output.

    ``strength``: the part of that target which is taken, 0 for GPTQ, 1 for ERQ's ridge regression, 0.25 in GPTAQ's
    code for vision transformers. ``damping``: of the mean diagonal, as in GPTQ. ``passes``: how often each column is
    rounded again given all others, for few bits. A layer keeps its new weight where the end of its segment, or of the
    model (``by``), is nearer to floating point on the last ``held_out`` images (at most a fifth), which the moments do
    not see; with ``judge`` false, always. ``passes`` and ``by`` are written out only where they are set.
    """

    unwritten: ClassVar = ("passes", "by")

    images: int = Field(128, ge=1)
    strength: float = Field(0.25, ge=0, le=1)
    damping: float = Field(0.01, gt=0)
    held_out: int = Field(32, ge=1)
    judge: bool = True
    passes: int = Field(0, ge=0)
    by: By = "segment"

    def apply(self, run: "Run") -> None:
        """Change weights and biases of ``run.student``; RecipeError where weights are not calibrated."""
        self.pass_over(run, self.images, self.held_out, self.judge, self.by)

    def change(self, layer: QuantizedLayer, known: Moments) -> None:
        """Round the weight of ``layer``."""
        w_OI, h_II = layer.weight.flatten(1), known.damped(self.damping)
        goal_OI = target(w_OI, known, self.damping, self.strength)
        rounded_OI = round_columns(goal_OI, h_II, layer.round_column)
        rounded_OI = descend(rounded_OI, goal_OI, h_II, layer.round_column, self.passes)
        change_O = bias_change(w_OI, rounded_OI, known)
        layer.weight.copy_(rounded_OI.reshape(layer.weight.shape))
        if layer.bias is not None:
            layer.bias.add_(change_O)
