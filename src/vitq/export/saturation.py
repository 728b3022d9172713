"""Products of 8-bit weights and 8-bit activations on a CPU that adds pairs of them in 16 bits.

x86 CPUs without VNNI multiply uint8 by int8 with ``vpmaddubsw``, which saturates where a pair exceeds 16 bits. uint8
by uint8 takes another instruction and is exact, so such weights are written as uint8 codes with zero point 128. In
OpenVINO they are then multiplied in floating point, as are activations that it would take as int8.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper

from vitq.export.runtimes import SESSIONS
from vitq.export.targets import OPSET, Cpu, Profile, overflows
from vitq.export.verify.segments import quantized_nodes
from vitq.graph import Graph
from vitq.graph.ops import MATMUL, is_op, is_transposed
from vitq.quantizers import Quantizer

MIDDLE = 128
"""The largest int8 code, without its sign."""
SIZE = 64
"""Rows, columns and inputs of the product that tells what this CPU does."""


@dataclass(frozen=True)
class Overflow:
    """Sites whose products can exceed 16 bits in pairs: ``weights``, and ``activations`` that are second operands."""

    weights: frozenset[str] = frozenset()
    activations: frozenset[str] = frozenset()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.weights) + len(self.activations)


NONE = Overflow()


def overflowing(graph: Graph, weights: Mapping[str, Quantizer], profile: Profile) -> Overflow:
    """Return what can overflow in files of ``profile``; nothing where it runs on no CPU.

    Weights of 7 bits cannot, nor those whose activation has 7 bits or none. ONNX Runtime multiplies two activations as
    uint8 by uint8; OpenVINO takes the second one as int8 where its zero point is in the middle. It drops the zero point
    of a transposed convolution's uint8 weights, so the activation before one is in floating point instead.
    """
    if profile.runtime is None:
        return NONE
    codes = {
        name: max(view.steps for view in views if view)
        for name, quantizer in graph.quantizers.items()
        if isinstance(quantizer, Quantizer) and quantizer.axis is None
        if all(views := [part.integer_view() for part in quantizer.parts])
    }
    largest = {consumer: code for name, code in codes.items() for consumer in graph.sites[name].consumers}
    wide = frozenset(
        name
        for name, quantizer in weights.items()
        if quantizer.integer_view()
        and any(overflows(2 ** (quantizer.format.bits - 1), largest.get(c, 0)) for c in graph.sites[name].consumers)
    )
    if profile.uint8_weights:
        return Overflow(wide)
    site_of = {node: name for node, name in quantized_nodes(graph).items() if name in codes}
    pairs = [
        [site_of.get(getattr(operand, "name", "")) for operand in node.args[:2]]
        for node in graph.module.graph.nodes
        if is_op(node, MATMUL)
    ]
    second = {b for a, b in pairs if a and b and overflows(min(codes[b], MIDDLE), codes[a])}
    transposed = {node.name for node in graph.module.graph.nodes if is_transposed(node)}
    spread = {name for name in wide if transposed.intersection(graph.sites[name].consumers)}
    readers = {consumer for name in spread for consumer in graph.sites[name].consumers}
    before = {name for name in codes if readers.intersection(graph.sites[name].consumers)}
    return Overflow(wide - spread, frozenset(second | before))


def cause(overflow: Overflow, profile: Profile, cpu: Cpu) -> str:
    """Return why a file for ``cpu`` is wrong on this one, and what to do; nothing where it is not for that reason."""
    if not overflow or cpu is Cpu.ANY or profile.runtime is None or not saturates(profile.runtime):
        return ""
    return (
        f"this CPU has no VNNI: it adds products in pairs, in 16 bits, and {len(overflow)} products of 8-bit codes "
        "can saturate in a file for --cpu vnni; leave --cpu out for a file that is right on every CPU, quantize with "
        "--bits w7a8, or export on a CPU with VNNI"
    )


@functools.cache
def saturates(runtime: str) -> bool:
    """Whether ``runtime`` saturates here: it is given the largest codes of uint8 by int8, and its sums are checked.

    No list of instructions says it better: a runtime may be held to fewer of them than the CPU has.
    """
    x_TI = torch.full((1, SIZE, SIZE), 255.0)
    y_TO = SESSIONS[runtime](_product())({"x": x_TI})[0]
    return not torch.allclose(y_TO, torch.full_like(y_TO, SIZE * 255.0 * 127.0))


def _product() -> bytes:
    """Return a file whose one product is of uint8 activations and int8 weights, all of them the largest."""
    held = {
        "scale": np.float32(1),
        "zero": np.uint8(0),
        "w_IO": np.full((SIZE, SIZE), 127, np.int8),
        "scale_O": np.ones(SIZE, np.float32),
        "zero_O": np.zeros(SIZE, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["rounded"]),
        helper.make_node("DequantizeLinear", ["w_IO", "scale_O", "zero_O"], ["weight"], axis=1),
        helper.make_node("MatMul", ["rounded", "weight"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", SIZE, SIZE]) for name in "xy"]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()]
    graph = helper.make_graph(nodes, "product", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content
