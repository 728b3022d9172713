"""Operations that multiply by weights and have no sites: what stays in floating point, and how much that is."""

import math
from dataclasses import dataclass

import torch
from torch import fx

from vitq.graph.fold import depends_on_input
from vitq.graph.ops import CONV, LINEAR, MATMUL, MOVE, NORM, is_op, is_transposed, value

LOOKUP = {
    torch.ops.aten.embedding.default,
    torch.ops.aten.index.Tensor,
    torch.ops.aten.gather.default,
    torch.ops.aten.repeat.default,
    torch.ops.aten.tile.default,
    torch.ops.aten.roll.default,
    torch.ops.aten.flip.default,
}
"""Operations that pick values out of a table, or repeat and move them."""

PRODUCTS = {
    "addbmm",
    "addmv",
    "addr",
    "baddbmm",
    "bilinear",
    "cdist",
    "conv3d",
    "conv_transpose3d",
    "conv_tbc",
    "dot",
    "einsum",
    "gru",
    "inner",
    "kron",
    "linalg_matmul",
    "linalg_vecdot",
    "lstm",
    "mv",
    "rnn_relu",
    "rnn_tanh",
    "tensordot",
    "vdot",
}
"""Operations that multiply and add, whatever they read; so do all Fourier transforms."""

RECURRENT = {"lstm", "gru", "rnn_relu", "rnn_tanh"}
COMPUTED = " of a computed weight"


@dataclass(frozen=True)
class Unsupported:
    """One kind of operation without sites: how often it stands in the graph, and where first."""

    operation: str
    nodes: tuple[str, ...]
    weights: int
    """Elements of the weights that it reads."""


def find_unsupported(graph: fx.Graph) -> tuple[Unsupported, ...]:
    """Return the operations that multiply and add, or read a weight of two or more dimensions, and have no sites.

    A linear or convolution whose weight is computed from the image is one of them. Elementwise operations, norms, views
    and lookups in tables are none. Source: vitq.
    """
    dependent = depends_on_input(graph)
    found: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node not in dependent or node.op != "call_function":
            continue
        name = _name(node)
        if is_op(node, LINEAR | CONV) and node.args[1] in dependent:
            found.setdefault(name + COMPUTED, []).append(node)
        elif not _known(node) and (_weights(node) or name in PRODUCTS or name.lstrip("_").startswith("fft_")):
            found.setdefault(name, []).append(node)
    return tuple(
        Unsupported(
            name, tuple(node.name for node in nodes), sum(_elements(w) for node in nodes for w in _weights(node))
        )
        for name, nodes in found.items()
    )


def floating_share(graph: fx.Graph) -> tuple[float, float]:
    """Return which share of the weights and of the multiplications operations without sites have, each in [0, 1].

    An operation multiplies each element of its result by a weight's elements per output channel; a matmul of two
    activations by its inner dimension.
    """
    names = {name for entry in find_unsupported(graph) for name in entry.nodes}
    weights, products = [0, 0], [0.0, 0.0]
    for node in graph.nodes:
        if is_op(node, LINEAR | CONV | MATMUL) or node.name in names:
            floating = node.name in names
            weights[floating] += sum(_elements(w) for w in _weights(node))
            products[floating] += _multiplications(node)
    shares = (part[True] / max(sum(part), 1) for part in (weights, products))
    first, second = shares
    return first, second


def _known(node: fx.Node) -> bool:
    target = node.target
    pointwise = isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags
    return pointwise or is_op(node, LINEAR | CONV | MATMUL | MOVE | NORM | LOOKUP)


def _weights(node: fx.Node) -> list[fx.Node]:
    """Return the stored floating-point tensors of two or more dimensions that ``node`` reads."""
    stored = [n for n in node.all_input_nodes if n.op == "get_attr" or (n.op == "call_module" and _is_stored(n))]
    return [n for n in stored if value(n).ndim >= 2 and value(n).is_floating_point()]


def _is_stored(quantized: fx.Node) -> bool:
    return quantized.all_input_nodes[0].op == "get_attr"


def _multiplications(node: fx.Node) -> float:
    result = value(node)
    result = result[0] if isinstance(result, tuple | list) else result
    outputs = math.prod(size for size in result.shape if isinstance(size, int))
    weights = _weights(node)
    if weights:
        return float(outputs * sum(_elements(w) for w in weights)) / max(_channels(node, weights[0]), 1)
    return float(outputs * _inner(node))


def _channels(node: fx.Node, weight: fx.Node) -> int:
    """Return the outputs of one weight: its first size, for a stored right side of a matmul its last."""
    if _name(node) in RECURRENT:
        return int(value(node)[0].shape[-1])
    if is_transposed(node) or _name(node) == "conv_transpose3d":
        return int(value(weight).shape[1])
    return int(value(weight).shape[-1 if is_op(node, MATMUL) and node.args[1] is weight else 0])


def _inner(node: fx.Node) -> int:
    """Return how often each element of the result adds a product: the last size of what is multiplied."""
    if is_op(node, LINEAR | CONV):
        weight = node.args[1]
        return math.prod(int(size) for size in value(weight).shape[1:]) if isinstance(weight, fx.Node) else 1
    size = value(node.all_input_nodes[0]).shape[-1]
    return size if isinstance(size, int) else 1


def _elements(node: fx.Node) -> int:
    return int(value(node).numel())


def _name(node: fx.Node) -> str:
    """Return an operation's name as users write it: ``conv3d``, ``bilinear``."""
    packet = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(packet, "__name__", packet)).rpartition(".")[2]
