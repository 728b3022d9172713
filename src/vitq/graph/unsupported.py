"""Operations that multiply by weights and have no sites: what stays in floating point, and how much that is."""

import math
from dataclasses import dataclass

import torch
from torch import fx

from vitq.graph.fold import depends_on_input
from vitq.graph.ops import CONV, LINEAR, MATMUL, MOVE, NORM, is_op, value

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


@dataclass(frozen=True)
class Unsupported:
    """One kind of operation without sites: how often it stands in the graph, and where first."""

    operation: str
    nodes: tuple[str, ...]
    weights: int
    """Elements of the weights that it reads."""


def find_unsupported(graph: fx.Graph) -> tuple[Unsupported, ...]:
    """Return the operations that read a weight of two or more dimensions and are no linear, convolution or matmul.

    Elementwise operations, norms, views and lookups in tables count as none. Source: vitq.
    """
    dependent = depends_on_input(graph)
    found: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node in dependent and node.op == "call_function" and not _known(node) and _weights(node):
            found.setdefault(_name(node), []).append(node)
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
    return float(outputs * _inner(node)) if is_op(node, MATMUL) else 0.0


def _channels(node: fx.Node, weight: fx.Node) -> int:
    """Return the outputs of one weight: its first size, for a stored right side of a matmul its last."""
    return int(value(weight).shape[-1 if is_op(node, MATMUL) and node.args[1] is weight else 0])


def _inner(node: fx.Node) -> int:
    size = value(node.all_input_nodes[0]).shape[-1]
    return size if isinstance(size, int) else 1


def _elements(node: fx.Node) -> int:
    return int(value(node).numel())


def _name(node: fx.Node) -> str:
    """Return an operation's name as users write it: ``conv3d``, ``bilinear``."""
    packet = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(packet, "__name__", packet)).rpartition(".")[2]
