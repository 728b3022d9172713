"""Step ``match_channels``: give each output channel of a layer the factor and the bias that bring it nearest.

With ŷ what a quantized layer gives on quantized inputs and y what it gives in floating point, channel by channel
    a = cov(y, ŷ) / var(ŷ),  b = mean(y) - a mean(ŷ).
The factor joins the scale of the channel's weights, whose codes stay, and b the bias: nothing is left to compute.
Source: QwT-v2, the channel-wise affine form of QwT (arXiv 2411.13918), fitted there to whole blocks; layer by layer and
judged on held-out images is vitq's choice. Without factors it is bias correction on quantized inputs.
"""

from typing import TYPE_CHECKING

from pydantic import Field

from vitq.compensate.layers import QuantizedLayer
from vitq.compensate.rounding import Moments, bias_change, channel_factors
from vitq.compensate.walk import By, LayerStep
from vitq.run.step import register_step

if TYPE_CHECKING:
    from vitq.run.run import Run


@register_step("match_channels")
class MatchChannels(LayerStep):
    """Fit scale and bias of every output channel of the quantized layers; run it behind ``calibrate``.

    ``factors`` false leaves scales as they are, and so do formats whose weights have no scale per channel. A layer
    keeps its change where the end of its segment, or of the model (``by``), is nearer to floating point on the last
    ``held_out`` images (at most a fifth), which the fit does not see; with ``judge`` false, always.
    """

    images: int = Field(128, ge=1)
    factors: bool = True
    held_out: int = Field(32, ge=1)
    judge: bool = True
    by: By = "model"

    def apply(self, run: "Run") -> None:
        """Change scales, weights and biases of ``run.student``; RecipeError where weights are not calibrated."""
        self.pass_over(run, self.images, self.held_out, self.judge, self.by)

    def change(self, layer: QuantizedLayer, known: Moments) -> None:
        """Fit the channels of ``layer``."""
        w_OI = layer.weight.flatten(1).clone()
        scale_O = layer.channel_scale
        if self.factors and scale_O is not None:
            a_O = channel_factors(w_OI, layer.quantizer(layer.weight).flatten(1), known)
            scale_O.mul_(a_O.reshape(scale_O.shape))
            layer.weight.mul_(a_O.reshape(-1, *[1] * (layer.weight.ndim - 1)))
        if layer.bias is not None:
            rounded_OI = layer.quantizer(layer.weight).flatten(1)
            layer.bias.add_(bias_change(w_OI, rounded_OI, known))
