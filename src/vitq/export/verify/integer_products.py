"""What of a model must run in integer kernels, and what is worth knowing about the rest."""

from collections import Counter
from collections.abc import Collection, Mapping

import onnx

from vitq.export.parts import parts_of
from vitq.export.targets import Profile
from vitq.graph import Graph
from vitq.graph.ops import CONV, LINEAR, MATMUL, aten, is_op, is_transposed
from vitq.quantizers import Quantizer

FUSED = {"LayerNormalization": {aten.layer_norm.default}, "Gelu": {aten.gelu.default}}
"""What an operator of the file was in the captured graph."""


def expected_integer_products(
    graph: Graph, weights: Mapping[str, Quantizer], profile: Profile, unsigned: Collection[str] = ()
) -> tuple[int, tuple[str, ...]]:
    """Return how many products must run in integer kernels, and what is worth knowing about the others.

    Weights named in ``unsigned`` are written as uint8. Products of two activations count for ONNX Runtime alone:
    OpenVINO fuses attention in its own way.
    """
    nodes = {node.name: node for node in graph.module.graph.nodes}
    kinds = {name: quantizer.parts for name, quantizer in graph.quantizers.items() if isinstance(quantizer, Quantizer)}
    integer = {name: parts for name, parts in kinds.items() if all(part.has_integer_values for part in parts)}
    operands = Counter(consumer for name in integer for consumer in graph.sites[name].consumers)
    apart = {c for name, parts in integer.items() if len(parts) > 1 for c in graph.sites[name].consumers}
    products = {
        name: sum(2 if c in apart else len(parts_of(nodes[c], graph.cuts)) or 1 for c in graph.sites[name].consumers)
        for name, weight in weights.items()
        if weight.integer_view() is not None
        and all(is_op(nodes[c], LINEAR) and c in operands for c in graph.sites[name].consumers)
    }
    floating = _floating(graph, weights)
    remedy = f"quantize with --target {profile.name} (weights of 7 bits), or export with --cpu vnni for CPUs with it"
    if not profile.uint8_weights:
        uneven = {name for name in products if not weights[name].format.symmetric}
        wide = {name for name in products if name in unsigned} - uneven
        notes: list[str] = []
        if uneven:
            note = f"{len(uneven)} linears have weights with zero points, which OpenVINO multiplies in floating point"
            notes.append(f"{note}; quantize with --target openvino")
        if wide:
            notes.append(
                f"{len(wide)} linears of 8-bit weights and 8-bit activations are multiplied in floating point, for "
                f"OpenVINO's int8 kernels saturate where a CPU has no VNNI; {remedy}"
            )
        return sum(count for name, count in products.items() if name not in uneven | wide), (*notes, *floating)
    slow = [name for name in products if name in unsigned]
    if slow:
        note = f"{len(slow)} linears have uint8 weights: exact on every CPU, but half as fast as int8 where it has VNNI"
        floating = (f"{note}; {remedy}", *floating)
    attention = sum(count == 2 and is_op(nodes[c], MATMUL) and c not in apart for c, count in operands.items())
    return sum(products.values()) + (attention if profile.runtime == "onnxruntime" else 0), floating


def expected_integer_convolutions(
    graph: Graph, weights: Mapping[str, Quantizer], profile: Profile, unsigned: Collection[str] = ()
) -> int:
    """Return how many convolutions must run in integer kernels, in groups too: OpenVINO's, with int8 weights.

    It adds what follows in floating point (batch norms, SiLU) to the kernel. ONNX Runtime has integer kernels only for
    what is quantized at once behind it, so none is promised there; transposed ones have none anywhere.
    """
    if profile.uint8_weights or profile.runtime != "openvino":
        return 0
    nodes = {node.name: node for node in graph.module.graph.nodes}
    integer = {q.site for q in graph.quantizers.values() if isinstance(q, Quantizer) and q.has_integer_values}
    read = {consumer for name in integer if name in graph.sites for consumer in graph.sites[name].consumers}
    return sum(
        is_op(nodes[c], CONV) and not is_transposed(nodes[c]) and c in read
        for name, weight in weights.items()
        if weight.integer_view() is not None and weight.format.symmetric and name not in unsigned
        for c in graph.sites[name].consumers
    )


def _floating(graph: Graph, weights: Mapping[str, Quantizer]) -> tuple[str, ...]:
    """Return a note for each format of weights without integer values, and of activations that are too wide for 8 bits.

    Logarithmic ones have none by nature, and parameters for each head are a choice: neither is told.
    """
    activations = [q for q in graph.quantizers.values() if isinstance(q, Quantizer)]
    found = Counter(f"weights of {w.format}" for w in weights.values() if w.integer_view() is None)
    found.update(f"activations of {q.format}" for q in activations if any(part.too_wide for part in q.parts))
    return tuple(
        f"{count} {what} are multiplied in floating point, for no int8 kernel takes them"
        for what, count in found.items()
    )


def split_operators(graph: Graph, content: bytes, profile: Profile) -> list[str]:
    """Return a line for each operator that ``profile`` wants whole and that the file computes in parts."""
    written = Counter(node.op_type for node in onnx.load_from_string(content).graph.node)
    lines: list[str] = []
    for operator in profile.fused:
        wanted = {str(node.args) for node in graph.module.graph.nodes if is_op(node, FUSED[operator])}
        if written[operator] < len(wanted):  # equal ones are computed once
            lines.append(f"{written[operator]} of {len(wanted)} {operator} operators are whole in the file")
    return lines
