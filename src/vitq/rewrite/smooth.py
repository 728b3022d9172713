"""Step ``smooth``: divide the outlier channels of an activation and multiply the next layer's columns by as much.

x W = (x / r) (diag(r) W): the function stays, the activation's range shrinks. Where a norm stands before the layer its
scale transfer does this for free; behind a GELU nothing can absorb 1 / r, so it stays as one elementwise product.
Source: SmoothQuant (arXiv 2211.10438), equation 3; only channels far above the median are touched (r ≥ 1, as in
UQ-ViT), and how far they are pulled in is chosen per layer by output error at the run's bits (vitq).
"""

from typing import TYPE_CHECKING

import torch
from pydantic import Field

from vitq.errors import GraphError
from vitq.graph import Graph, Role, Site
from vitq.graph.edit import finish, insert_call, insert_constant, node_named
from vitq.graph.ops import LINEAR, aten, is_op
from vitq.graph.queries import Consumer, consumers_at
from vitq.rewrite.affine import absorb
from vitq.rewrite.norms import Seen, require_floating, watch
from vitq.rewrite.operands import Plan, output_error
from vitq.run.step import Step, register_step

if TYPE_CHECKING:
    from vitq.run.run import Run


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
        require_floating(graph, "smooth")
        found: dict[tuple[Consumer, ...], str] = {}
        for site in [site for site in graph.sites.values() if self._is_wanted(graph, site)]:
            try:
                found[consumers_at(graph, site)] = site.name
            except GraphError as error:
                run.events.warn("smooth-skipped", f"site '{site.name}' stays as it is: {error}")
        chosen: dict[str, float] = {}
        for consumers, seen in watch(run, Plan(run, known=False), found, self.images):
            strength = self._smooth(graph, consumers[0], seen)
            chosen |= {found[consumers]: strength} if strength else {}
        finish(graph.module)
        graph.refresh()
        run.events.log("smooth", sites=chosen)

    def _is_wanted(self, graph: Graph, site: Site) -> bool:
        alone = site.role in self.roles and len(site.consumers) == 1
        return alone and is_op(node_named(graph.module, site.consumers[0]), LINEAR)

    @torch.no_grad()
    def _smooth(self, graph: Graph, consumer: Consumer, seen: Seen) -> float:
        """Choose the best strength for one linear's input, rewrite the graph with it and return it."""
        excess_C = outlier_excess(seen.peak_C.float(), self.threshold)
        if bool((excess_C == 1).all()):
            return 0.0
        errors = {s: output_error(seen.layers, excess_C**s) for s in (0.0, *self.strengths)}
        best = min(errors, key=lambda s: errors[s])
        if best > 0:
            _divide(graph, consumer, excess_C**best)
            absorb(graph, (consumer,), excess_C**best, None)
        return best


def outlier_excess(peak_C: torch.Tensor, threshold: float) -> torch.Tensor:
    """Return per channel how many times its largest value exceeds ``threshold`` medians over channels, at least 1."""
    return (peak_C / (threshold * peak_C.median()).clamp(min=1e-12)).clamp(min=1.0)


def _divide(graph: Graph, consumer: Consumer, r_C: torch.Tensor) -> None:
    """Put x · (1 / r) between the tensor and the linear that reads it."""
    module, source, linear = graph.module, consumer.source, consumer.op
    factor = insert_constant(module, f"{linear.name}_smooth", r_C.reciprocal(), before=linear)
    product = insert_call(module, aten.mul.Tensor, (source, factor), before=linear, like=source)
    linear.replace_input_with(source, product)
