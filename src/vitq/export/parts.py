"""Linears whose result is taken apart at once, as queries, keys and values are: each part can be a linear of its own.

The parts then need no copy to be told apart: the same logits, somewhat faster (docs/research-notes.md).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from vitq.graph.ops import VIEW, aten, is_op, value

RESHAPE = VIEW | {aten.reshape.default}


@dataclass(frozen=True)
class Part:
    """One part of a linear: its rows of the weight, the node that reads it, and the view and permutation before."""

    rows: slice
    reader: fx.Node
    shape: tuple[int | fx.Node, ...]
    order: tuple[int, ...]


def parts_of(linear: fx.Node, keep: Collection[str]) -> list[Part]:
    """Return the parts of a linear of at least three dimensions, none where it is not taken apart.

    It is where only ``reshape(…, P, H, D)``, a permutation that brings P to the front and ``unbind`` read it, none of
    them a node to ``keep``.
    """
    view = _only_user(linear, RESHAPE, keep)
    permuted = _only_user(view, {aten.permute.default}, keep)
    taken = _only_user(permuted, {aten.unbind.int}, keep)
    if view is None or permuted is None or taken is None or taken.name in keep or value(linear).ndim < 3:
        return []
    shape, order = _sequence(view.args[1]), [d % value(view).ndim for d in _sequence(permuted.args[1])]
    outputs, axis = value(linear).shape[-1], len(order) - 3
    if axis < 0 or order[0] != axis or value(view).shape[-3:].numel() != outputs or taken.args[1:] not in ((), (0,)):
        return []
    size, kept = outputs // value(view).shape[axis], (*shape[:axis], *shape[axis + 1 :])
    rest = tuple(d - (d > axis) for d in order[1:])
    found: list[Part] = []
    for reader in taken.users:
        index = reader.args[1]
        assert isinstance(index, int)
        found.append(Part(slice(index * size, (index + 1) * size), reader, kept, rest))
    return found


def read(graph: fx.Graph, part: Part, product: fx.Node) -> None:
    """Give the readers of ``part`` its ``product`` instead, in the shape that they expect."""
    seen = graph.call_function(aten.reshape.default, (product, list(part.shape)))
    permuted = graph.call_function(aten.permute.default, (seen, list(part.order)))
    permuted.meta = dict(part.reader.meta)
    part.reader.replace_all_uses_with(permuted)
    name = part.reader.name
    graph.erase_node(part.reader)
    permuted.name = name


def _only_user(node: fx.Node | None, operations: Collection[object], keep: Collection[str]) -> fx.Node | None:
    if node is None or len(node.users) != 1 or node.name in keep:
        return None
    user = next(iter(node.users))
    return user if is_op(user, set(operations)) else None


def _sequence(argument: Any) -> Sequence[Any]:
    assert isinstance(argument, Sequence)
    return argument
