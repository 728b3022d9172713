"""Step ``gptaq``: round weights one column after another, each error made up for by what is not rounded yet.

Layer by layer, each on what the quantized layers before it give. Source: GPTAQ (arXiv 2504.02692); with strength 0 it
is GPTQ (arXiv 2210.17323).
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field

from vitq.activations import ActivationCache
from vitq.compensate.layers import QuantizedLayer, quantized_layers
from vitq.compensate.rounding import Moments, bias_change, round_columns, target
from vitq.compensate.segment import Segment
from vitq.errors import RecipeError
from vitq.graph import Span
from vitq.run.step import Step, register_step

if TYPE_CHECKING:
    from vitq.run.run import Run


@register_step("gptaq")
class Gptaq(Step):
    """Round calibrated weights with GPTQ towards what makes up for quantized inputs, too; biases keep the mean output.

    ``strength``: the part of that target which is taken, 0 for GPTQ, 1 for ERQ's ridge regression, 0.25 in GPTAQ's
    code for vision transformers. ``damping``: of the mean diagonal, as in GPTQ. A layer keeps its new weight where the
    segment's end is nearer to floating point on the last ``held_out`` images (at most a fifth), which the moments do
    not see; with ``judge`` false, always.
    """

    images: int = Field(128, ge=1)
    strength: float = Field(0.25, ge=0, le=1)
    damping: float = Field(0.01, gt=0)
    held_out: int = Field(32, ge=1)
    judge: bool = True

    def apply(self, run: "Run") -> None:
        """Change weights and biases of ``run.student``; RecipeError where weights are not calibrated."""
        layers, refused = quantized_layers(run.student)
        if not layers or not all(layer.quantizer.calibrated for layer in layers):
            raise RecipeError("gptaq rounds weights with their scales: put it behind 'insert' and 'calibrate'")
        for name, reason in refused.items():
            run.events.log("gptaq-skipped", site=name, reason=reason)
        saved = run.restore(run.stage)
        if saved is None:
            saved = self._changed(run, layers)
            run.save(run.stage, *saved)
        for layer in layers:
            layer.load({name: saved[0][key] for name, key in layer.keys.items() if key in saved[0]})
        run.events.log("gptaq", layers=saved[1])

    @torch.no_grad()
    def _changed(self, run: "Run", layers: list[QuantizedLayer]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Change layers in place, segment by segment; return all that changed, and errors before and after."""
        images = run.images_NCHW[: self.images]
        held_out = min(self.held_out, len(images) // 5)
        if held_out == 0:
            raise RecipeError("gptaq judges layers on held-out images: give at least 5 calibration images")
        cache = ActivationCache(run.student, run.teacher, images, run.device)
        tensors, facts = dict[str, torch.Tensor](), dict[str, Any]()
        with run.events.task("gptaq", total=len(layers)) as task:
            for span, own in _by_span(run, layers):
                pair = cache.at(span.start)
                segment = Segment(run, span, own, pair, held_out * len(pair.teacher_N) // len(images))
                before = segment.error()
                for layer in own:
                    old = layer.tensors()
                    self._round(layer, segment.moments(layer))
                    after = segment.error()
                    kept = after < before or not self.judge
                    if kept:
                        tensors |= {layer.keys[name]: tensor for name, tensor in layer.tensors().items()}
                    else:
                        layer.load(old)
                    facts[layer.name] = {"before": before, "after": after, "kept": kept}
                    task.advance(site=layer.name, before=before, after=after)
                    before = after if kept else before
                cache.evict(span, None, {span.end})
        return tensors, facts

    def _round(self, layer: QuantizedLayer, known: Moments) -> None:
        w_OI = layer.weight.flatten(1)
        goal_OI = target(w_OI, known, self.damping, self.strength)
        rounded_OI = round_columns(goal_OI, known.damped(self.damping), layer.round_column)
        change_O = bias_change(w_OI, rounded_OI, known)
        layer.weight.copy_(rounded_OI.reshape(layer.weight.shape))
        if layer.bias is not None:
            layer.bias.add_(change_O)


def _by_span(run: "Run", layers: list[QuantizedLayer]) -> Iterator[tuple[Span, list[QuantizedLayer]]]:
    """Yield every segment with its layers, in the order of the graph."""
    position = {node.name: i for i, node in enumerate(run.student.module.graph.nodes)}
    rest = sorted(layers, key=lambda layer: position[layer.op.name])
    for span in run.teacher.spans("unit"):
        own = [layer for layer in rest if position[layer.op.name] <= position[span.end]]
        rest = rest[len(own) :]
        yield span, own
