"""Step ``correct_biases``: take the mean error that quantization makes in a layer's output off the layer's bias.

b ← b - mean(Ŵ x̂ - W x), over calibration images and positions, for each output channel.
Sources: PWLQ (ECCV 2020, arXiv 2002.00104) corrects the biases of quantized weights; the mean of the output is that of
Finkelstein, Almog, Grobman (arXiv 1906.03193) and Nagel and others (ICCV 2019, arXiv 1906.04721), with the mean error
of activations in it. That held-out images decide, layer by layer, is vitq's choice.
"""

from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import fx

from vitq.activations import sites_by_segment, walk
from vitq.calibrate.groups import Group, find_groups
from vitq.calibrate.insert import quantizer_of
from vitq.errors import GraphError
from vitq.graph import Graph
from vitq.graph.ops import CONV, LINEAR, is_op
from vitq.graph.parameters import parameter, require_own
from vitq.quantizers.tokens import others
from vitq.run.step import Step, register_step

if TYPE_CHECKING:
    from vitq.run.run import Run


@register_step("correct_biases")
class CorrectBiases(Step):
    """Correct the biases of quantized linears and convolutions; run it behind ``calibrate``.

    The last part ``held_out`` of the first ``images`` calibration images is not averaged over: a layer whose output
    error they do not see fall stays as it is.
    """

    images: int = Field(64, ge=2)
    held_out: float = Field(0.25, gt=0, lt=1)

    @torch.no_grad()
    def apply(self, run: "Run") -> None:
        """Change the biases of ``run.student``; one that another layer shares stays, with a warning."""
        graph, images = run.student, run.images_NCHW[: self.images]
        groups = [group for group in find_groups(graph) if group.weights and _is_quantized(graph, group)]
        tapped = {group.inputs[0].name for group in groups}
        corrected, stayed = list[str](), list[str]()
        averaged = max(len(images) - max(round(self.held_out * len(images)), 1), 1)
        for _, tensors in walk(graph, images, sites_by_segment(graph, lambda s: s.name in tapped), run.device):
            for group in [group for group in groups if group.inputs[0].name in tensors]:
                x = tensors[group.inputs[0].name].to(run.device).float()
                for layer, site in zip(group.layers, group.weights, strict=True):
                    try:
                        better = is_op(layer, LINEAR | CONV) and _correct(
                            graph, layer, group, x, site.name, averaged, len(images)
                        )
                    except GraphError as error:
                        run.events.warn("bias-skipped", f"the bias behind '{site.name}' stays as it is: {error}")
                        continue
                    (corrected if better else stayed).append(site.name)
        run.events.log("correct_biases", corrected=corrected, stayed=stayed)


def _is_quantized(graph: Graph, group: Group) -> bool:
    return any(quantizer_of(graph, site.name) is not None for site in group.sites)


def _correct(
    graph: Graph, layer: fx.Node, group: Group, x: torch.Tensor, weight: str, averaged: int, images: int
) -> bool:
    """Correct one layer's bias by the first ``averaged`` of all ``images``, where the others agree; tell whether."""
    require_own(graph, layer, 2)
    reader, quantizer = quantizer_of(graph, group.inputs[0].name), quantizer_of(graph, weight)
    w = graph.parameter(graph.sites[weight].node)[1]
    w_hat = w if quantizer is None else quantizer(w)
    axis, rows = -1 if is_op(layer, LINEAR) else 1, len(x) * averaged // images
    parts = x[:rows], x[rows:]
    places_P = None if reader is None else reader.places_P

    def error(x: torch.Tensor) -> torch.Tensor:
        """Return the error of the output, of ordinary tokens alone: what a massive one loses is its own."""
        x_hat = x if reader is None else reader(x)
        x, x_hat = (t if places_P is None else others(t, places_P) for t in (x, x_hat))
        return _error(layer, (x, w), (x_hat, w_hat), axis)

    errors = [error(x) for x in parts]
    mean_O = errors[0].mean(0)
    if not bool(torch.isfinite(mean_O).all()) or not bool(mean_O.any()):
        return False
    if float((errors[1] - mean_O).square().sum()) >= float(errors[1].square().sum()):
        return False
    bias_O = parameter(graph, layer, 2, mean_O.new_zeros(len(mean_O)).to(w))
    bias_O.sub_(mean_O.to(bias_O))
    return True


def _error(
    layer: fx.Node, exact: tuple[torch.Tensor, torch.Tensor], quantized: tuple[torch.Tensor, torch.Tensor], axis: int
) -> torch.Tensor:
    """Return the error of a layer's output, without its bias, as error_NO."""
    error = _output(layer, *quantized) - _output(layer, *exact)
    return error.movedim(axis, -1).reshape(-1, error.shape[axis])


def _output(layer: fx.Node, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = layer.target(x, weight, None, *layer.args[3:])  # type: ignore[operator]
    return result
