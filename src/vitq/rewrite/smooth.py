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
from vitq.graph import Graph, Role
from vitq.graph.edit import finish, insert_call, insert_constant, node_named
from vitq.graph.ops import LINEAR, aten, is_op
from vitq.graph.queries import Consumer, consumers_at
from vitq.rewrite.affine import absorb
from vitq.rewrite.norms import require_floating, watch
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
        """Rewrite ``run.student`` where that lowers the error of a layer's output.

        Factors that an interrupted run had chosen are kept.
        """
        graph = run.student
        require_floating(graph, "smooth")
        saved, found = run.restore(run.stage), self._inputs(run)
        if saved is None:
            chosen = self._search(run, found)
            factors = {name: r_C for name, (_, r_C) in chosen.items()}
            run.save(run.stage, factors)
            run.events.log("smooth", sites={name: strength for name, (strength, _) in chosen.items()})
        else:
            factors = saved[0]
            run.events.log("smooth", sites=list(factors), resumed=True)
        for (consumer,), name in found.items():
            if name in factors:
                _divide(graph, consumer, factors[name])
                absorb(graph, (consumer,), factors[name], None)
        finish(graph.module)
        graph.refresh()

    def _inputs(self, run: "Run") -> dict[tuple[Consumer, ...], str]:
        """Return the names of the sites that can be smoothed by who reads them; the others are named with a reason."""
        graph, found = run.student, dict[tuple[Consumer, ...], str]()
        for site in [site for site in graph.sites.values() if site.role in self.roles]:
            readers = [node_named(graph.module, name) for name in site.consumers]
            if len(readers) > 1 or not is_op(readers[0], LINEAR):
                kinds = "several operations read it" if len(readers) > 1 else f"'{readers[0].name}' is no linear"
                run.events.log("rewrite-skipped", site=site.name, reason=kinds)
                continue
            try:
                found[consumers_at(graph, site)] = site.name
            except GraphError as error:
                run.events.warn("smooth-skipped", f"site '{site.name}' stays as it is: {error}")
        return found

    @torch.no_grad()
    def _search(self, run: "Run", found: dict[tuple[Consumer, ...], str]) -> dict[str, tuple[float, torch.Tensor]]:
        """Return strength and factors by name, where smoothing helps."""
        chosen = dict[str, tuple[float, torch.Tensor]]()
        for consumers, seen in watch(run, Plan(run, known=False), found, self.images):
            excess_C = outlier_excess(seen.peak_C.float(), self.threshold)
            if bool((excess_C == 1).all()):
                continue
            errors = {s: output_error(seen.layers, excess_C**s) for s in (0.0, *self.strengths)}
            best = min(errors, key=lambda s: errors[s])
            chosen |= {found[consumers]: (best, excess_C**best)} if best > 0 else {}
        return chosen


def outlier_excess(peak_C: torch.Tensor, threshold: float) -> torch.Tensor:
    """Return per channel how many times its largest value exceeds ``threshold`` medians over channels, at least 1."""
    return (peak_C / (threshold * peak_C.median()).clamp(min=1e-12)).clamp(min=1.0)


@torch.no_grad()
def _divide(graph: Graph, consumer: Consumer, r_C: torch.Tensor) -> None:
    """Put x · (1 / r) between the tensor and the linear that reads it."""
    module, source, linear = graph.module, consumer.source, consumer.op
    like = graph.parameter(consumer.weight_node.name)[1]
    factor = insert_constant(module, f"{linear.name}_smooth", r_C.to(like).reciprocal(), before=linear)
    product = insert_call(module, aten.mul.Tensor, (source, factor), before=linear, like=source)
    linear.replace_input_with(source, product)
