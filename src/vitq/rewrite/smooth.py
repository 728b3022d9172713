"""Step ``smooth``: divide the outlier channels of an activation and multiply the next layer's columns by as much.

x W = (x / r) (diag(r) W): the function stays, the activation's range shrinks. Where a norm stands before the layer its
scale transfer does this for free; behind a GELU nothing can absorb 1 / r, so it stays as one elementwise product.
Source: SmoothQuant (arXiv 2211.10438), equation 3; only channels far above the median are touched (r ≥ 1, as in
UQ-ViT), and how far they are pulled in is chosen per layer by output error at the run's bits (vitq).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import fx

from vitq.activations import sites_by_segment, walk
from vitq.errors import GraphError
from vitq.graph import Graph, Role, Site
from vitq.graph.edit import finish, insert_call, insert_constant, node_named
from vitq.graph.ops import LINEAR, aten, is_op
from vitq.graph.parameters import require_own
from vitq.quantizers import affine_from_range
from vitq.run.step import Step, register_step

if TYPE_CHECKING:
    from vitq.run.run import Run

MAX_TOKENS = 2048
CLIPS = (0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0)


@register_step("smooth")
class Smooth(Step):
    """Smooth every site of ``roles`` that feeds one linear; run it before ``insert``.

    A channel is an outlier when its largest value exceeds ``threshold`` times the median over channels. ``strengths``
    are tried as powers of the excess; 0 leaves the site as it is and is always tried.
    """

    images: int = Field(32, ge=1)
    roles: tuple[Role, ...] = (Role.POST_ACTIVATION,)
    threshold: float = Field(4.0, ge=1)
    strengths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)

    def apply(self, run: "Run") -> None:
        """Rewrite ``run.student`` where that lowers the error of a layer's output."""
        graph = run.student
        if graph.quantizers:
            raise GraphError("smooth changes what is quantized: put it before 'insert' in the recipe")
        linears = {node.name: node for node in graph.module.graph.nodes if is_op(node, LINEAR)}
        segments = sites_by_segment(graph, lambda site: self._is_wanted(site, linears))
        chosen: dict[str, float] = {}
        for segment, tensors in walk(graph, run.images_NCHW[: self.images], segments, run.device):
            for site in segment.sites:
                x = tensors[site.name]
                strength = self._smooth(run, site, linears[site.consumers[0]], x.reshape(-1, x.shape[-1]))
                chosen |= {site.name: strength} if strength else {}
        graph.refresh()
        run.events.log("smooth", sites=chosen)

    def _is_wanted(self, site: Site, linears: Mapping[str, fx.Node]) -> bool:
        return site.role in self.roles and len(site.consumers) == 1 and site.consumers[0] in linears

    @torch.no_grad()
    def _smooth(self, run: "Run", site: Site, linear: fx.Node, x_TC: torch.Tensor) -> float:
        """Choose the best strength for one site, rewrite the graph with it and return it."""
        excess_C = outlier_excess(x_TC, self.threshold)
        if bool((excess_C == 1).all()):
            return 0.0
        try:
            require_own(run.student, linear, 1)
        except GraphError as error:
            run.events.warn("smooth-skipped", f"site '{site.name}' stays as it is: {error}")
            return 0.0
        weight = run.student.parameter(str(linear.args[1]))[1]
        rows_TC = x_TC[:: max(len(x_TC) // MAX_TOKENS, 1)]
        bits = (min(run.bits.activations, 8), min(run.bits.weights, 8))
        errors = {s: output_error(rows_TC, weight, excess_C**s, *bits) for s in (0.0, *self.strengths)}
        best = min(errors, key=lambda s: errors[s])
        if best > 0:
            _divide(run.student, site, linear, excess_C**best)
            weight.mul_(excess_C**best)
        return best


def outlier_excess(x_TC: torch.Tensor, threshold: float) -> torch.Tensor:
    """Return per channel how many times its largest value exceeds ``threshold`` medians over channels, at least 1."""
    peak_C = x_TC.abs().amax(0)
    return (peak_C / (threshold * peak_C.median()).clamp(min=1e-12)).clamp(min=1.0)


def output_error(x_TC: torch.Tensor, w_OC: torch.Tensor, r_C: torch.Tensor, a_bits: int, w_bits: int) -> float:
    """Return the least squared error of x Wᵀ over clip ratios when x / r and W diag(r) are quantized."""
    exact_TO = x_TC @ w_OC.T
    x, w = x_TC / r_C, w_OC * r_C
    scale, zero = affine_from_range(w.amin(1, keepdim=True), w.amax(1, keepdim=True), w_bits)
    w_hat = _round(w, scale, zero, w_bits)
    errors = []
    for clip in CLIPS:
        step, origin = affine_from_range(x.min() * clip, x.max() * clip, a_bits)
        errors.append(float((_round(x, step, origin, a_bits) @ w_hat.T - exact_TO).square().mean()))
    return min(errors)


def _round(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int) -> torch.Tensor:
    return (((x / scale).round() + zero).clamp(0, 2**bits - 1) - zero) * scale


def _divide(graph: Graph, site: Site, linear: fx.Node, r_C: torch.Tensor) -> None:
    """Put x · (1 / r) between the site's tensor and its linear."""
    module, source = graph.module, node_named(graph.module, site.node)
    factor = insert_constant(module, f"{linear.name}_smooth", r_C.reciprocal(), before=linear)
    product = insert_call(module, aten.mul.Tensor, (source, factor), before=linear, like=source)
    linear.replace_input_with(source, product)
    finish(module)
