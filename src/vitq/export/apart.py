"""Tokens with a scale of their own in a file: each kind is quantized apart, and linears multiply each apart.

A product whose rows have two scales is none for an integer kernel; two products of one scale each are. Their rows are
put back in order by a gather, so every value is what the simulation has.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from vitq.export.weights import constant
from vitq.graph.edit import replace
from vitq.graph.ops import LINEAR, aten, is_op, value
from vitq.quantizers import Quantizer
from vitq.quantizers.tokens import AXIS

KINDS = ("ordinary", "massive")
"""What is behind the quantizer's name in those of the nodes that hold its two kinds of tokens."""

Write = Callable[[Quantizer, fx.Node, fx.Node, str], fx.Node]
"""Writes a quantizer of the first node's values before the second one, under a name for its constants."""


def lower_apart(module: fx.GraphModule, node: fx.Node, quantizer: Quantizer, write: Write) -> None:
    """Write a quantizer of two kinds of tokens, and each linear behind it twice."""
    source = node.args[0]
    assert isinstance(source, fx.Node) and quantizer.places_P is not None
    shape = value(source).shape
    count, dim = int(shape[AXIS]), len(shape) + AXIS
    places_P = quantizer.places_P.cpu()
    order_T = torch.arange(count)
    order_T[places_P] = count + torch.arange(len(places_P))
    chosen = constant(module, f"{node.name}_places", places_P, node)
    order = constant(module, f"{node.name}_order", order_T, node)
    picked = _call(module, node, aten.index_select.default, (source, dim, chosen), source)
    ordinary, massive = (
        write(part, x, node, f"{node.name}_{number}")
        for number, (part, x) in enumerate(zip(quantizer.parts, (source, picked), strict=True))
    )
    for new, kind in zip((ordinary, massive), KINDS, strict=True):
        new.name = f"{node.name}_{kind}"

    def in_order(parts: Sequence[fx.Node], before: fx.Node, like: fx.Node) -> fx.Node:
        joined = _call(module, before, aten.cat.default, (list(parts), dim), like)
        return _call(module, before, aten.index_select.default, (joined, dim, order), like)

    for user in [user for user in node.users if is_op(user, LINEAR) and user.args[0] is node]:
        products = [_call(module, user, user.target, (part, *user.args[1:]), user) for part in (ordinary, massive)]
        replace(module, user, in_order(products, user, user))
    if node.users:
        replace(module, node, in_order((ordinary, massive), node, node))
    else:
        module.graph.erase_node(node)


def _call(module: fx.GraphModule, before: fx.Node, target: Any, arguments: tuple[Any, ...], like: fx.Node) -> fx.Node:
    """Call ``target`` before a node; later passes read of its value only how many axes it has, as ``like`` has."""
    with module.graph.inserting_before(before):
        new = module.graph.call_function(target, arguments)
    new.meta = dict(like.meta)
    return new
