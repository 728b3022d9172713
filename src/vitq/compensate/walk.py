"""The one pass over quantized layers in which each may change and is judged on held-out images."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import torch

from vitq.activations import ActivationCache
from vitq.compensate.layers import QuantizedLayer, quantized_layers
from vitq.compensate.rounding import Moments
from vitq.compensate.segment import Segment
from vitq.errors import RecipeError
from vitq.graph import Span
from vitq.run.step import Step

if TYPE_CHECKING:
    from vitq.run.run import Run

By = Literal["segment", "model"]
"""Where a changed layer is judged: at its segment's end, or at the outputs of the quantized model."""


class LayerStep(Step):
    """What steps that change one quantized layer after the other have in common; ``change`` is the one thing of each.

    A layer keeps its change where the error on the last ``held_out`` of the ``images`` (at most a fifth), which
    ``change`` does not see, gets less; with ``judge`` false, always.
    """

    def change(self, layer: QuantizedLayer, known: Moments) -> None:
        """Change weight, bias and scales of ``layer`` in place, given the moments of what it reads."""
        raise NotImplementedError

    def pass_over(self, run: "Run", images: int, held_out: int, judge: bool, by: By) -> None:
        """Change the layers of ``run.student``, or read back what was done; RecipeError without calibrated weights."""
        layers, refused = quantized_layers(run.student)
        if not layers or not all(layer.quantizer.calibrated for layer in layers):
            raise RecipeError(f"{self.step_name} needs the scales of weights: put it behind 'insert' and 'calibrate'")
        for name, reason in refused.items():
            run.events.log(f"{self.step_name}-skipped", site=name, reason=reason)
        saved = run.restore(run.stage)
        if saved is None:
            saved = self._changed(run, layers, run.images_NCHW[:images], held_out, judge, by)
            run.save(run.stage, *saved)
        for layer in layers:
            layer.load({name: saved[0][key] for name, key in layer.keys.items() if key in saved[0]})
        run.events.log(self.step_name, layers=saved[1])

    @torch.no_grad()
    def _changed(
        self, run: "Run", layers: list[QuantizedLayer], images: torch.Tensor, held_out: int, judge: bool, by: By
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Change layers in place, segment by segment; return all that changed, and errors before and after."""
        held_out = min(held_out, len(images) // 5)
        if held_out == 0:
            raise RecipeError(f"{self.step_name} judges layers on held-out images: give at least 5 calibration images")
        cache = ActivationCache(run.student, run.teacher, images, run.device)
        tensors, facts = dict[str, torch.Tensor](), dict[str, Any]()
        with run.events.task(self.step_name, total=len(layers)) as task:
            for span, own in by_span(run, layers):
                pair = cache.at(span.start)
                segment = Segment(run, span, own, pair, held_out * len(pair.teacher_N) // len(images), by)
                before = segment.error()
                for layer in own:
                    old = layer.tensors()
                    self.change(layer, segment.moments(layer))
                    after = segment.error()
                    kept = after < before or not judge
                    if kept:
                        tensors |= {layer.keys[name]: tensor for name, tensor in layer.tensors().items()}
                    else:
                        layer.load(old)
                    facts[layer.name] = {"before": before, "after": after, "kept": kept}
                    task.advance(site=layer.name, before=before, after=after)
                    before = after if kept else before
                cache.evict(span, None, {span.end})
        return tensors, facts


def by_span(run: "Run", layers: list[QuantizedLayer]) -> Iterator[tuple[Span, list[QuantizedLayer]]]:
    """Yield every segment with its layers, in the order of the graph."""
    position = {node.name: i for i, node in enumerate(run.student.module.graph.nodes)}
    rest = sorted(layers, key=lambda layer: position[layer.op.name])
    for span in run.teacher.spans("unit"):
        own = [layer for layer in rest if position[layer.op.name] <= position[span.end]]
        rest = rest[len(own) :]
        yield span, own
