"""Rows that are joined and then quantized: between the two a file has one axis more and one less.

OpenVINO quantizes what is joined before it joins it, piece by piece. Then each row of a linear's input has a zero
point of its own, and OpenVINO 2026.4 does not compile that. A squeeze between the two keeps their order. Source: vitq.
"""

from typing import cast

import torch
from torch import fx

from vitq.graph.edit import replace
from vitq.graph.ops import CONV, aten, attribute, is_op, value

JOIN = {aten.cat.default, aten.concat.default}
CHANNELS = 1
"""The axis along which convolutions sum; linears sum along the last."""


def keep_order(module: fx.GraphModule, quantizer: fx.Node) -> None:
    """Write the concatenation that ``quantizer`` reads around an axis of its own, where its readers need that."""
    joined = _source(module, quantizer.args[0])
    if not is_op(joined, JOIN):
        return
    rank = len(value(joined).shape)
    pieces, axis = cast(list[fx.Node], joined.args[0]), _axis(joined) % rank
    if all(axis == (CHANNELS if is_op(user, CONV) else rank - 1) for user in quantizer.users):
        return
    graph = module.graph
    with graph.inserting_before(joined):
        raised = [graph.call_function(aten.unsqueeze.default, (piece, axis)) for piece in pieces]
        wide = graph.call_function(aten.cat.default, (raised, axis + 1))
        plain = graph.call_function(aten.squeeze.dims, (wide, [axis]))
    replace(module, joined, plain)


def _axis(joined: fx.Node) -> int:
    return cast(int, joined.args[1] if len(joined.args) > 1 else joined.kwargs.get("dim", 0))


def _source(module: fx.GraphModule, node: object) -> fx.Node:
    """Return what is quantized, or what is multiplied by ones for it: runtimes drop such a product."""
    assert isinstance(node, fx.Node)
    if is_op(node, {aten.mul.Tensor}):
        factors = [n for n in node.all_input_nodes if n.op == "get_attr" and _is_ones(attribute(module, str(n.target)))]
        others = [n for n in node.all_input_nodes if n not in factors]
        if factors and len(others) == 1:
            return _source(module, others[0])
    return node


def _is_ones(tensor: torch.Tensor) -> bool:
    return bool((tensor == 1).all())
