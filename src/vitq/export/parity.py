"""Proof: segment by segment the runtime gets the simulation's own input, and codes and outputs are compared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx
import torch

from vitq.export.emit import INPUT, OUTPUT
from vitq.export.runtimes import Session
from vitq.graph import Graph, Span
from vitq.quantizers import Quantizer

MakeSession = Callable[[bytes, list[str] | None], Session]


@dataclass(frozen=True)
class SegmentProof:
    """One segment on the simulation's input.

    ``flipped``: share of the codes inside that differ; ``error``: largest relative error of an image's output, over the
    images none of whose codes differ (a flipped code is a tie that fell to the other side, and moves what follows).
    """

    name: str
    sites: int
    flipped: float
    error: float


def cut_names(graph: Graph) -> dict[str, str]:
    """Return how the file names the tensors at the ends of blocks, by node."""
    return {span.end: f"cut/{span.end}" for span in graph.spans("block")[:-1]}


def site_names(graph: Graph) -> dict[str, str]:
    """Return how the file names the quantized tensors, by node."""
    nodes = {node.target: node.name for node in graph.module.graph.nodes if node.op == "call_module"}
    paths = {id(module): path for path, module in graph.module.named_modules()}
    return {nodes[paths[id(quantizer)]]: f"site/{name}" for name, quantizer in graph.quantizers.items()}


@torch.no_grad()
def prove(content: bytes, graph: Graph, images_NCHW: torch.Tensor, make: MakeSession) -> tuple[SegmentProof, ...]:
    """Compare every block of the file with ``graph``, on ``images_NCHW``, each from the simulation's own input."""
    extractor = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(onnx.load_from_string(content)))
    sites, cuts = site_names(graph), cut_names(graph)
    quantizers = {f"site/{name}": quantizer for name, quantizer in graph.quantizers.items()}
    x = images_NCHW
    proofs: list[SegmentProof] = []
    for span in graph.spans("block"):
        inside = _sites_inside(graph, span, sites)
        simulated = graph.segment(span.start, span.end, tuple(inside))(x)
        output, *values = simulated if isinstance(simulated, tuple) else (simulated,)
        wanted = [cuts.get(span.end, OUTPUT), *(sites[node] for node in inside)]
        part = extractor.extract_model([cuts.get(span.start, INPUT)], wanted)
        got, *codes = make(part.SerializeToString(), wanted)(x)
        proofs.append(_compare(span.name, output, got, values, codes, [quantizers[n] for n in wanted[1:]]))
        x = output
    return tuple(proofs)


def _sites_inside(graph: Graph, span: Span, sites: Mapping[str, str]) -> list[str]:
    segment = graph.segment(span.start, span.end)
    return [node.name for node in segment.graph.nodes if node.op == "call_module" and node.name in sites]


def _compare(
    name: str,
    output: torch.Tensor,
    got: torch.Tensor,
    values: list[torch.Tensor],
    codes: list[torch.Tensor],
    quantizers: list[torch.nn.Module],
) -> SegmentProof:
    images = len(output)
    touched, flipped, total = torch.zeros(images, dtype=torch.bool), 0, 0
    for simulated, other, quantizer in zip(values, codes, quantizers, strict=True):
        assert isinstance(quantizer, Quantizer)
        affine = "zero_point" in quantizer.parameter_names
        step = quantizer.scale if affine else simulated.abs()
        different = (simulated - other).abs() > 0.01 * step
        flipped, total = flipped + int(different.sum()), total + different.numel()
        touched |= different.reshape(images, -1).any(1)
    clean = ~touched
    if not bool(clean.any()):
        return SegmentProof(name, len(values), flipped / max(total, 1), 0.0)
    difference = (output - got)[clean].flatten(1).norm(dim=1)
    error = difference / output[clean].flatten(1).norm(dim=1).clamp(min=1e-12)
    return SegmentProof(name, len(values), flipped / max(total, 1), float(error.max()))
