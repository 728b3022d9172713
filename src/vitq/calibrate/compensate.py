"""Step ``compensate``: change weights in closed form so that each quantized layer gives what it gave in floating point.

Layer after layer, behind a quantized prefix. X: a layer's input in floating point; X̂: what reaches it now,
quantized; rows are tokens, both centred where the layer has a bias. The float weights that fit best are
    W* = W + W (X - X̂)ᵀX̂ (H + λI)⁻¹,   H_II = X̂ᵀX̂,
and W* is rounded column by column, the error of each column moved to those still to come (GPTQ, arXiv 2210.17323;
the asymmetric target is that of ERQ, ICML 2024, and GPTAQ, arXiv 2504.02692). The bias absorbs what is left on average.
"""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import fx

from vitq.calibrate.assign import Member, search_alone
from vitq.calibrate.groups import Group, find_groups, input_matrix, weight_matrix
from vitq.calibrate.insert import quantizer_of
from vitq.calibrate.statistics import CHUNK, sites_by_segment
from vitq.graph import Graph
from vitq.graph.ops import MATMUL, is_op
from vitq.step import Step, register_step

if TYPE_CHECKING:
    from vitq.run import Run


@register_step("compensate")
class Compensate(Step):
    """Refit and round the weights of every quantized layer, given calibrated activations.

    ``images``: how many of the run's images; ``dampings``: λ to choose from, in parts of the mean diagonal of H;
    ``sites``: "all" or a glob over weight sites. Weights end on their quantizer's grid.
    """

    images: int = Field(default=128, ge=1)
    dampings: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 10.0)
    sites: str = "all"

    @torch.no_grad()
    def apply(self, run: "Run") -> None:
        """Change weights and biases of ``run.student``; every activation quantizer must be calibrated."""
        graph, device = run.student, run.device
        pattern = "*" if self.sites == "all" else self.sites
        groups = [g for g in find_groups(graph) if any(fnmatchcase(s.name, pattern) for s in g.weights)]
        by_input = {group.inputs[0].name: group for group in groups}
        segments = sites_by_segment(graph, lambda site: site.name in by_input)
        exact = quantized = run.images_NCHW[: self.images]
        with run.events.task("compensate", total=len(groups)) as task:
            for segment in segments:
                start, end = segment.span.start, segment.span.end
                nodes = tuple(site.node for site in segment.sites)
                after, *inputs = _run(graph.segment(start, end, nodes, floating=True), exact, device, 1 + len(nodes))
                for site, x in zip(segment.sites, inputs, strict=True):
                    (now,) = _run(graph.segment(start, site.node), quantized, device)
                    self._refit(graph, by_input[site.name], x, now, pattern)
                    task.advance(1, layer=site.name)
                del inputs
                (quantized,) = _run(graph.segment(start, end), quantized, device)
                exact = after

    def _refit(self, graph: Graph, group: Group, x: torch.Tensor, now: torch.Tensor, pattern: str) -> None:
        source = quantizer_of(graph, group.inputs[0].name)
        now = now if source is None else source(now)
        for layer, site in zip(group.layers, group.weights, strict=True):
            quantizer = quantizer_of(graph, site.name)
            _, weight = graph.parameter(site.node)
            w_OI = weight_matrix(layer, weight)
            if quantizer is None or w_OI is None or len(site.consumers) > 1 or not fnmatchcase(site.name, pattern):
                continue
            x_NI, now_NI = input_matrix(layer, x, weight), input_matrix(layer, now, weight)
            bias_O = _bias(graph, layer)
            mean_I, now_mean_I = x_NI.mean(0), now_NI.mean(0)
            if bias_O is not None:
                x_NI, now_NI = x_NI - mean_I, now_NI - now_mean_I
            w_OI = w_OI.clone()
            best_OI, gram_II = refit(w_OI, x_NI, now_NI, self.dampings)
            weight.copy_(_like(best_OI, weight, layer))
            member = Member(site, weight, quantizer)
            search_alone(member, "mse")
            new_OI = round_columns(best_OI, gram_II, _rounder(member))
            weight.copy_(_like(new_OI, weight, layer))
            if bias_O is not None:
                bias_O.add_(w_OI @ mean_I - new_OI.float() @ now_mean_I)


def refit(
    w_OI: torch.Tensor, x_NI: torch.Tensor, now_NI: torch.Tensor, dampings: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weights that turn ``now`` into x Wᵀ best, and the damped Gram matrix of ``now``, in float64.

    The damping is the one under which a fit to the first half of the rows does best on the second.
    """
    halves = list(zip(x_NI.chunk(2), now_NI.chunk(2), strict=True))
    grams = [(now.T @ now).double() for _, now in halves]
    crosses = [((x - now).T @ now).double() for x, now in halves]
    w = w_OI.double()

    def change(gram_II: torch.Tensor, cross_II: torch.Tensor) -> torch.Tensor:
        fitted_OI: torch.Tensor = w @ torch.linalg.solve(gram_II, cross_II, left=False)
        return fitted_OI

    def unseen_error(damping: float) -> float:
        change_OI = change(damped(grams[0], damping), crosses[0])
        return float(((change_OI @ grams[-1] - 2 * w @ crosses[-1]) * change_OI).sum())

    solid_II = damped(grams[0] + grams[-1], min(dampings, key=unseen_error))
    return w + change(solid_II, crosses[0] + crosses[-1]), solid_II


def damped(gram_II: torch.Tensor, damping: float) -> torch.Tensor:
    """Return the Gram matrix with ``damping`` times its mean diagonal added to the diagonal."""
    diagonal_I = gram_II.diagonal()
    return gram_II + torch.diag((damping * diagonal_I.mean()).clamp(min=1e-12).expand_as(diagonal_I))


def round_columns(
    w_OI: torch.Tensor, gram_II: torch.Tensor, rounded: Callable[[torch.Tensor, int], torch.Tensor]
) -> torch.Tensor:
    """Return w on its grid: ``rounded(w_O, i)`` column by column, largest diagonal first, errors moved on (GPTQ)."""
    order = gram_II.diagonal().argsort(descending=True)
    inverse_II = torch.linalg.inv(gram_II[order][:, order])
    upper_II = torch.linalg.cholesky(inverse_II, upper=True)
    left_OI = w_OI[:, order].clone()
    out_OI = torch.empty_like(w_OI)
    for i, column in enumerate(order.tolist()):
        out_OI[:, column] = rounded(left_OI[:, i], column)
        error_O = (left_OI[:, i] - out_OI[:, column]) / upper_II[i, i]
        left_OI[:, i + 1 :] -= error_O[:, None] * upper_II[i, i + 1 :]
    return out_OI


def _run(segment: fx.GraphModule, x_NCHW: torch.Tensor, device: torch.device, outputs: int = 1) -> list[torch.Tensor]:
    """Run ``segment`` in chunks and return its outputs, joined."""
    parts: list[list[torch.Tensor]] = [[] for _ in range(outputs)]
    for chunk in x_NCHW.split(CHUNK):
        result = segment(chunk.to(device))
        for kept, tensor in zip(parts, (result,) if isinstance(result, torch.Tensor) else result, strict=True):
            kept.append(tensor)
    return [torch.cat(kept) for kept in parts]


def _bias(graph: Graph, layer: fx.Node) -> torch.Tensor | None:
    """Return the bias of ``layer`` where it has one of its own."""
    node = layer.args[2] if len(layer.args) > 2 and not is_op(layer, MATMUL) else None
    if not isinstance(node, fx.Node) or len(node.users) > 1:
        return None
    return graph.parameter(node.name)[1]


def _like(w_OI: torch.Tensor, weight: torch.Tensor, layer: fx.Node) -> torch.Tensor:
    """Return w_OI in the shape and dtype of the weight it came from."""
    return (w_OI.T if is_op(layer, MATMUL) else w_OI).reshape(weight.shape).to(weight.dtype)


def _rounder(member: Member) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """Return the rounding of one column by the member's quantizer, in its own float32."""
    scale_G, zero_G = member.current().shaped(-1)

    def rounded(w_O: torch.Tensor, column: int) -> torch.Tensor:
        return member.target.simulate(w_O.float(), scale_G, zero_G).double()

    return rounded
