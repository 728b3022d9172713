"""Send numbers through operations that only move values, and see where each one arrives.

No rule is written down for any of them: an operation is asked by running it on numbers, for a batch of two images.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx

from vitq.errors import GraphError
from vitq.graph.ops import aten, is_move, is_op, is_size, value

TYPE = {aten.type_as.default, aten._to_copy.default}
"""Operations that change the type of their first argument."""


def numbers(node: fx.Node, axis: int, channels: int) -> torch.Tensor:
    """Return 1, …, ``channels`` along ``axis``, again and again, in the shape of ``node``."""
    shape = example_shape(node)
    along: torch.Tensor = torch.arange(1, channels + 1, dtype=torch.float64).repeat(shape[axis] // channels)
    sent: torch.Tensor = along.reshape(-1, *[1] * (len(shape) - 1 - axis % len(shape))).expand(shape).clone()
    return sent


def example_shape(node: fx.Node) -> list[int]:
    """Return the shape of ``node`` for a batch of two images."""
    return [_example(size) for size in value(node).shape]


def arriving(end: fx.Node, source: fx.Node, sent: torch.Tensor) -> torch.Tensor:
    """Return what ``end`` holds if ``source`` holds ``sent`` and only moves, quantizers and factors stand between.

    Quantizers and factors that are one number are taken as if they changed nothing. Raises GraphError, naming it, for
    any other operation.
    """
    if end is source:
        return sent
    if not carries(end):
        raise GraphError(f"'{end.name}' stands between '{source.name}' and its reader and computes new values")
    arrived: torch.Tensor = moved(end, {node: arriving(node, source, sent) for node in tensor_inputs(end)})
    return arrived


def moved(node: fx.Node, given: Mapping[fx.Node, torch.Tensor]) -> Any:
    """Return what ``node`` makes of the tensors that it reads; quantizers and factors change nothing here."""
    if _is_item(node):
        return moved(node.args[0], given)[node.args[1]]  # type: ignore[arg-type]
    if _keeps_all(node):
        return given[tensor_inputs(node)[0]]
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: given[n] if n in given else _example(value(n)))
    return node.target(*args, **kwargs)  # type: ignore[operator]


def carries(node: fx.Node) -> bool:
    """Tell whether ``node`` moves values, quantizes them, changes their type, or multiplies them by one number."""
    if _is_item(node):
        return carries(node.all_input_nodes[0])
    return _keeps_all(node) or is_move(node)


def is_scalar_product(node: fx.Node) -> bool:
    """Tell whether ``node`` multiplies a tensor by one number, or divides it."""
    if not is_op(node, {aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar, aten.neg.default}):
        return False
    inputs = tensor_inputs(node)
    square = len(node.args) > 1 and node.args[0] is node.args[1]
    inverse = is_op(node, {aten.div.Tensor}) and node.args[0] not in inputs
    return len(inputs) == 1 and not square and not inverse


def tensor_inputs(node: fx.Node) -> list[fx.Node]:
    """Return the tensors that ``node`` reads, through a tuple and without its sizes and one-number constants."""
    if _is_item(node):
        return tensor_inputs(node.all_input_nodes[0])
    given = node.all_input_nodes[:1] if is_op(node, TYPE) else node.all_input_nodes
    return [n for n in given if not is_size(n) and not _is_number(n)]


def tensor_users(node: fx.Node) -> Iterator[fx.Node]:
    """Return the operations that read the values of ``node``, through a tuple; not its size or type alone."""
    for user in node.users:
        if isinstance(value(user), tuple | list):
            yield from user.users
        elif user.op == "output" or (not is_size(user) and node in tensor_inputs(user)):
            yield user


def _keeps_all(node: fx.Node) -> bool:
    return node.op == "call_module" or is_op(node, TYPE) or is_scalar_product(node)


def _is_item(node: fx.Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"


def _is_number(node: fx.Node) -> bool:
    return node.op == "get_attr" and isinstance(value(node), torch.Tensor) and value(node).numel() == 1


def _example(size: Any) -> int:
    """Return a number, or a size that depends on the batch for a batch of two images."""
    if isinstance(size, int):
        return size
    if isinstance(size, torch.SymInt):
        expression = size.node.expr
        return int(expression.subs({symbol: 2 for symbol in expression.free_symbols}))
    raise GraphError("it also reads a tensor of other origin")
