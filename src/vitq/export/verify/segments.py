"""Proof: every site of the written file gets the simulation's own inputs, and its codes are compared.

One code that falls to the other side of a tie moves all that follows, so a difference further down proves nothing. So
each site's codes are computed through the file's own quantizers and products from what the simulation has *before* the
sites ahead of it, and each block's end likewise. What only a quantizer reads is given there already rounded: it keeps
its codes, and no tie is near.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from vitq.export.apart import KINDS
from vitq.export.emit import INPUT
from vitq.export.runtimes import Content
from vitq.export.verify.outputs import largest_error
from vitq.export.verify.pieces import MakeSession, Pieces, pieces_of
from vitq.graph import Graph, Span
from vitq.quantizers import Quantizer
from vitq.quantizers.tokens import put
from vitq.run.events import Events

SUSPICIOUS = 0.01
"""Share of a site's codes; where more differ, what is quantized is made an output too and the part compiled again.

OpenVINO 2026.4 gave wrong codes where a file ended right behind LeViT's batch norm and quantizer, though not in the
whole model; with the norm's output asked for too it gave the right ones.
"""


@dataclass(frozen=True)
class SegmentProof:
    """One block: ``flipped``, the share of its codes that differ, of which ``moved`` is what rounded biases may move;
    ``error``, the largest relative error of its end and of what the model returns from inside it.
    """

    name: str
    sites: int
    flipped: float
    error: float
    moved: float = 0.0


def tensor_names(graph: Graph) -> dict[str, str]:
    """Return how the file names tensors, by node: ends of blocks, what each site quantizes, and its result.

    What the model returns has the name of its output and is left out.
    """
    names = {graph.sites[name].node: f"raw/{name}" for name in graph.quantizers}
    names |= {span.end: f"cut/{span.end}" for span in graph.spans("block")[:-1]}
    names |= {
        f"{node}{kind and '_'}{kind}": f"site/{name}{kind and '/'}{kind}"
        for node, name in quantized_nodes(graph).items()
        for kind in _kinds(graph.quantizers[name])
    }
    known = {graph.cuts[0], *graph.outputs.values()}
    return {node: name for node, name in names.items() if node not in known}


def _kinds(quantizer: torch.nn.Module) -> tuple[str, ...]:
    """Return the endings of the names that a file gives to a site's tensor: none, or one for each kind of tokens."""
    return KINDS if isinstance(quantizer, Quantizer) and quantizer.outliers is not None else ("",)


def quantized_nodes(graph: Graph) -> dict[str, str]:
    """Return the site whose quantized tensor a node holds."""
    paths = {id(module): path for path, module in graph.module.named_modules()}
    calls = {node.target: node.name for node in graph.module.graph.nodes if node.op == "call_module"}
    return {calls[paths[id(quantizer)]]: name for name, quantizer in graph.quantizers.items()}


@torch.no_grad()
def prove(
    content: Content,
    graph: Graph,
    images_NCHW: torch.Tensor,
    make: MakeSession,
    events: Events,
    moved: Mapping[str, float],
) -> tuple[SegmentProof, ...]:
    """Compare every block of the file with ``graph`` on ``images_NCHW``; ``moved`` is of ``moved_by_biases``."""
    pieces = pieces_of(content, make)
    outputs = {node: name for name, node in graph.outputs.items()}
    names = {**tensor_names(graph), **outputs, graph.cuts[0]: INPUT}
    quantized = quantized_nodes(graph)
    x = images_NCHW
    proofs: list[SegmentProof] = []
    with events.task("prove", len(graph.spans("block"))) as task:
        for span in graph.spans("block"):
            part = graph.segment(span.start, span.end, graph.sides(span.start, span.end))
            inside = [node.name for node in part.graph.nodes if node.name in quantized]
            given = {INPUT: images_NCHW, names[span.start]: x}  # shapes may follow from the images far behind them
            sites = [(node, quantized[node]) for node in inside]
            proof, x = _prove_block(pieces, graph, span, x, sites, names, given, moved)
            proofs.append(proof)
            task.advance()
    return tuple(proofs)


def _prove_block(
    pieces: Pieces,
    graph: Graph,
    span: Span,
    x: torch.Tensor,
    sites: Sequence[tuple[str, str]],
    names: Mapping[str, str],
    given: dict[str, torch.Tensor],
    moved: Mapping[str, float],
) -> tuple[SegmentProof, torch.Tensor]:
    raw, sides = [graph.sites[site].node for _, site in sites], graph.sides(span.start, span.end)
    taps = [node for node in dict.fromkeys((*raw, *(node for node, _ in sites), *sides)) if node != span.start]
    simulated = graph.segment(span.start, span.end, taps)(x)
    output, *tapped = simulated if isinstance(simulated, tuple) else (simulated,)
    values = {**dict(zip(taps, tapped, strict=True)), span.start: x}
    private = {node.name for node in graph.module.graph.nodes if len(node.users) == 1}
    flipped, allowed, total = 0, 0.0, 0
    for (node, site), source in zip(sites, raw, strict=True):
        quantizer, expected = graph.quantizers[site], values[node]
        assert isinstance(quantizer, Quantizer)
        different = _different(quantizer, expected, _computed(pieces, given, site, quantizer))
        if different > SUSPICIOUS * expected.numel() and names[source] not in given:
            different = _different(quantizer, expected, _computed(pieces, given, site, quantizer, names[source]))
        flipped, total = flipped + different, total + expected.numel()
        allowed += moved.get(site, 0.0) * expected.numel()
        given |= {names[source]: values[node] if source in private else values[source]}
    values[span.end] = output
    errors = [largest_error(values[node], pieces(given, names[node])[0]) for node in (span.end, *sides)]
    total = max(total, 1)
    return SegmentProof(span.name, len(sites), flipped / total, max(errors), allowed / total), output


def _computed(
    pieces: Pieces, given: Mapping[str, torch.Tensor], site: str, quantizer: Quantizer, *beside: str
) -> torch.Tensor:
    """Return a site's quantized tensor as the file computes it, with both kinds of tokens in their places."""
    found, *massive = (pieces(given, f"site/{site}{kind and '/'}{kind}", *beside)[0] for kind in _kinds(quantizer))
    return found if quantizer.places_P is None else put(found, quantizer.places_P.cpu(), massive[0])


def _different(quantizer: Quantizer, simulated: torch.Tensor, got: torch.Tensor) -> int:
    """Count codes that differ: values further apart than a rounding error, as a part of the step at that value."""
    return int(((simulated - got).abs() > 0.01 * quantizer.resolution(simulated)).sum())
