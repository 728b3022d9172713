"""Segments: the part of a graph between two nodes, as a module that runs on its own."""

import operator
from collections.abc import Sequence
from typing import Any

from torch import fx

from vitq.errors import GraphError
from vitq.graph.ops import aten, is_tensor, value


def extract(
    module: fx.GraphModule, start: str, end: str, taps: Sequence[str] = (), *, floating: bool = False
) -> fx.GraphModule:
    """Return the subgraph that computes node ``end`` from node ``start``, sharing parameters and quantizers.

    The result maps the tensor at ``start`` to the tensor at ``end``, or to (end, *taps) where ``taps`` names
    nodes in between; ``floating`` leaves the quantizers out. Sizes that come from the model's input are read
    from the segment's own input by matching symbolic shapes. Raises GraphError where ``end`` needs another
    activation than ``start``.
    """
    by_name = {node.name: node for node in module.graph.nodes}
    for name in (start, end, *taps):
        if name not in by_name:
            raise GraphError(f"no node '{name}' in the graph")
    wanted = [by_name[end], *(by_name[t] for t in taps)]
    inside = _closure(wanted, by_name[start])
    graph = fx.Graph()
    entry = graph.placeholder(start)
    entry.meta = dict(by_name[start].meta)
    copies: dict[fx.Node, fx.Node] = {by_name[start]: entry}
    for node in module.graph.nodes:
        if node not in inside:
            continue
        if floating and node.op == "call_module":
            copies[node] = copies[node.args[0]]
        elif _is_size(node):
            copies[node] = _size(graph, entry, node)
        else:
            copies[node] = graph.node_copy(node, lambda n: copies[n])
    outputs = tuple(copies[n] for n in wanted)
    graph.output(outputs if taps else outputs[0])
    graph.lint()
    return fx.GraphModule(module, graph)


def _closure(wanted: Sequence[fx.Node], start: fx.Node) -> set[fx.Node]:
    """Collect what ``wanted`` needs, going back no further than ``start`` and than sizes."""
    inside: set[fx.Node] = set()
    stack = [n for n in wanted if n is not start]
    while stack:
        node = stack.pop()
        if node in inside or node is start:
            continue
        if node.op == "placeholder":
            raise GraphError(
                f"'{wanted[0].name}' cannot be computed from '{start.name}' alone: it also reads the model's input"
            )
        inside.add(node)
        if not _is_size(node):
            stack.extend(node.all_input_nodes)
    return inside


def _is_size(node: fx.Node) -> bool:
    return node.op == "call_function" and hasattr(value(node), "node") and not is_tensor(node)


def _size(graph: fx.Graph, entry: fx.Node, node: fx.Node) -> fx.Node:
    """Express the symbolic size ``node`` through a dimension of the segment's input."""
    wanted = value(node).node.expr
    for dim, size in enumerate(value(entry).shape):
        own = size.node.expr if hasattr(size, "node") else None
        ratio = wanted / own if own is not None and own.free_symbols else None
        if ratio is not None and ratio.is_number:
            read: Any = graph.call_function(aten.sym_size.int, (entry, dim))
            if ratio.p != 1:
                read = graph.call_function(operator.mul, (read, int(ratio.p)))
            if ratio.q != 1:
                read = graph.call_function(operator.floordiv, (read, int(ratio.q)))
            read.meta["val"] = value(node)
            return read  # type: ignore[no-any-return]
    raise GraphError(f"size {wanted} of '{node.name}' does not follow from the shape {tuple(value(entry).shape)}")
