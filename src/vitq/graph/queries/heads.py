"""The heads of an attention: which rows and columns of its linears hold the channels of each.

Legend: L positions before tokens and width (batch, heads, windows), H heads, T tokens, D width of a head, O and I
output and input channels of a linear.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx

from vitq.errors import GraphError
from vitq.graph.edit import node_named
from vitq.graph.graph import Graph
from vitq.graph.ops import LINEAR, MATMUL, is_op
from vitq.graph.parameters import require_own
from vitq.graph.queries.numbers import carries, example_shape, moved, numbers, tensor_inputs, tensor_users
from vitq.graph.sites import Role, Site


@dataclass(frozen=True)
class Rows:
    """A linear and, for each head and each of its channels, a row (or, of a projection, a column) of its weight."""

    linear: fx.Node
    index_HD: torch.Tensor


@dataclass(frozen=True)
class HeadPair:
    """Two linears around a product, whose channels meet head by head.

    With an invertible A per head, ``first`` may write x A and ``second`` undo it: as columns, W A^-T; as the other
    operand of the product, x A^-T. With an orthogonal A both are multiplied by A.
    """

    product: fx.Node
    first: Rows
    second: Rows


def value_path(graph: Graph, site: Site) -> HeadPair:
    """Return the rows of the value linear and the columns of the projection behind the attention of ``site``.

    Raises GraphError, saying why, where ``site`` is no attention's value, anything but moves stands between value and
    projection, anybody else reads a value, heads share one, or a parameter is shared.
    """
    product = _product(graph, site, Role.VALUE)
    return _paired(product, _written(graph, product, 1, -2), _read(graph, product))


def query_key(graph: Graph, site: Site) -> HeadPair:
    """Return the rows of the query linear and of the key linear that meet in the attention of ``site``.

    Raises GraphError, saying why, where ``site`` is no attention's query, anything but moves and factors stands before
    the product, anybody else reads a query or key, heads share one, or a parameter is shared.
    """
    product = _product(graph, site, Role.QUERY)
    return _paired(product, _written(graph, product, 0, -2), _written(graph, product, 1, -1))


def _product(graph: Graph, site: Site, role: Role) -> fx.Node:
    if site.role is not role or len(site.consumers) != 1:
        raise GraphError(f"site '{site.name}' is not the {role} of one attention")
    product = node_named(graph.module, site.consumers[0])
    assert is_op(product, MATMUL)
    return product


def _written(graph: Graph, product: fx.Node, place: int, tokens: int) -> tuple[fx.Node, torch.Tensor]:
    """Return the linear that makes an operand of ``product``, and which rows arrive at each position."""
    operand = product.args[place]
    assert isinstance(operand, fx.Node)
    linear = operand
    while carries(linear) and len(tensor_inputs(linear)) == 1:
        (linear,) = tensor_inputs(linear)
    if not is_op(linear, LINEAR):
        raise GraphError(f"'{linear.name}', which makes '{operand.name}', is no linear layer")
    for parameter in (1, 2):
        require_own(graph, linear, parameter)
    arrivals = list(_arrivals(linear, numbers(linear, -1, example_shape(linear)[-1])))
    arrived = next(t for reader, node, t in arrivals if reader is product and node is operand)
    rows_LTD = arrived.movedim(tokens, -2).flatten(0, -3)
    if not bool((rows_LTD == rows_LTD[:, :1]).all()):
        raise GraphError(f"'{operand.name}' holds other channels of '{linear.name}' for other tokens")
    own = rows_LTD.unique()
    for reader, node, other in arrivals:
        if (reader, node) != (product, operand) and bool(torch.isin(other, own).any()):
            raise GraphError(f"'{reader.name}' reads the channels of '{operand.name}' too")
    batch = example_shape(product)[:-2]
    shape = [*arrived.shape[:-2], rows_LTD.shape[-1]]
    return linear, rows_LTD[:, 0].reshape(shape).expand(*batch, -1).flatten(0, -2).long() - 1


def _read(graph: Graph, product: fx.Node) -> tuple[fx.Node, torch.Tensor]:
    """Return the one linear that reads ``product``, and the column at which each position arrives."""
    *batch, tokens, width = example_shape(product)
    positions = int(torch.tensor(batch).prod())
    sent = torch.arange(1, positions * width + 1, dtype=torch.float64).reshape(*batch, 1, width)
    arrivals = list(_arrivals(product, sent.expand(*batch, tokens, width).clone()))
    linear, _, arrived = arrivals[0]
    if len(arrivals) != 1 or not is_op(linear, LINEAR):
        other_consumer = next((reader for reader, _, _ in arrivals if not is_op(reader, LINEAR)), linear)
        raise GraphError(f"'{other_consumer.name}', not one linear layer alone, reads '{product.name}'")
    require_own(graph, linear, 1)
    numbers_N, columns = arrived.flatten().long(), torch.arange(arrived.shape[-1]).expand(arrived.shape).flatten()
    table = torch.full((positions * width + 1,), -1).scatter_(0, numbers_N, columns)
    if not bool(((table[numbers_N] == columns) | (numbers_N == 0)).all()) or bool((table[1:] < 0).any()):
        raise GraphError(f"what stands between '{product.name}' and '{linear.name}' moves channels token by token")
    return linear, table[1:].reshape(positions, width)


def _arrivals(source: fx.Node, sent: torch.Tensor) -> Iterator[tuple[fx.Node, fx.Node, torch.Tensor]]:
    """Give each operation that computes with what ``source`` holds: it, the tensor that it reads, what arrives there.

    Only moves, quantizers and factors of one number stand between.
    """
    stack = [(source, sent)]
    while stack:
        node, held = stack.pop()
        for user in dict.fromkeys(tensor_users(node)):
            if carries(user) and tensor_inputs(user) == [node]:
                stack.append((user, moved(user, {node: held})))
            else:
                yield user, node, held


def _paired(product: fx.Node, first: tuple[fx.Node, torch.Tensor], second: tuple[fx.Node, torch.Tensor]) -> HeadPair:
    """Return the heads: the different pairs of rows that meet at some position."""
    width = first[1].shape[-1]
    pairs = torch.cat((first[1], second[1]), -1).unique(dim=0)
    sides = pairs[:, :width], pairs[:, width:]
    for (linear, _), side in zip((first, second), sides, strict=True):
        if side.unique().numel() != side.numel():
            raise GraphError(f"heads of '{product.name}' share channels of '{linear.name}'")
    return HeadPair(product, Rows(first[0], sides[0]), Rows(second[0], sides[1]))
