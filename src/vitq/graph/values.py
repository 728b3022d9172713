"""Fake values: the shapes and dtypes of a graph, with a symbolic batch, without computing anything."""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from vitq.errors import GraphError
from vitq.graph.ops import attribute

_BATCHES = (8191, 8179)
"""Two primes that stand for the batch, one after the other; what differs between them depends on it."""


_POWERS = {operator.pow}
_REPEATS = {operator.add, operator.mul, operator.mod}
"""Arithmetic that repeats, joins or formats what is no number."""

MOST_FACTORS = 4
LARGEST_SIZE = 1 << 40
MOST_ELEMENTS = 1 << 31
"""Elements that an operation may make of one image."""


def annotate(module: fx.GraphModule, shape: Sequence[int | None], dtype: torch.dtype) -> None:
    """Give every node of ``module`` the fake value that capture would have recorded, in place.

    ``shape`` is that of the one input, None where a dimension is the symbolic batch. Raises GraphError where a
    node does not run on the shapes of its arguments, or runs for one batch size only. Sizes come from two runs with
    numbers: operations that compare symbolic sizes fix them, each release of torch others.
    """
    runs = [_run(module, [size or batch for size in shape], dtype, None in shape) for batch in _BATCHES]
    mode = FakeTensorMode(shape_env=ShapeEnv())
    context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC])  # type: ignore[var-annotated]
    batch: Any = mode.from_tensor(torch.empty(_BATCHES[0]), symbolic_context=context).shape[0]
    for node in module.graph.nodes:
        if node.op == "output":
            continue
        first, second = (run[node] for run in runs)
        if isinstance(first, torch.Tensor):
            sizes = [_size(node, *pair, batch) for pair in zip(first.shape, second.shape, strict=True)]
            with mode:
                node.meta["val"] = torch.empty(sizes, dtype=first.dtype, device=first.device)
        elif isinstance(first, int):
            node.meta["val"] = _size(node, first, second, batch)
        else:
            node.meta["val"] = first


def fake_result(mode: FakeTensorMode, target: Any, *args: Any) -> Any:
    """Return what operation ``target`` gives on fake values, whose sizes stay as symbolic as they are.

    Without guards: a product compares sizes, and torch 2.11 would then take the batch for its example's everywhere.
    """
    assert mode.shape_env is not None
    with mode, mode.shape_env.suppress_guards():
        return target(*args)


def _run(module: fx.GraphModule, shape: Sequence[int], dtype: torch.dtype, batched: bool) -> dict[fx.Node, Any]:
    """Return the fake result of every node for an input of ``shape``."""
    mode, results = FakeTensorMode(), dict[fx.Node, Any]()
    for node in module.graph.nodes:
        if node.op == "placeholder":
            with mode:
                results[node] = torch.empty(shape, dtype=dtype)
        elif node.op == "get_attr":
            results[node] = mode.from_tensor(attribute(module, str(node.target)))
        elif node.op == "call_module":
            results[node] = results[node.all_input_nodes[0]]
        elif node.op == "call_function":
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), results.__getitem__)
            if node.target in _POWERS | _REPEATS:
                _require_small(node, args)
            try:
                with mode, torch.no_grad():
                    results[node] = node.target(*args, **kwargs)
                _require_bounded(node, results[node], shape[0] if batched else 1)
            except GraphError:
                raise
            except Exception as error:  # torch raises many unrelated types
                where = ", or runs for one batch size only" if batched else ""
                raise GraphError(
                    f"node '{node.name}' does not run on the shapes of its arguments{where}: {error}"
                ) from error
    return results


def _require_small(node: fx.Node, args: tuple[Any, ...]) -> None:
    """Raise GraphError for arithmetic on what is no number, or whose result would be no size."""
    numbers = all(isinstance(a, int | float) for a in args)
    if not numbers or (node.target in _POWERS and (abs(args[0]) > LARGEST_SIZE or not 0 <= args[1] <= MOST_FACTORS)):
        raise GraphError(f"node '{node.name}' computes {node.target} of {args}, which is no size")


def _require_bounded(node: fx.Node, result: Any, batch: int) -> None:
    """Raise GraphError for tensors that no image needs, or numbers that are no sizes."""
    for part in result if isinstance(result, tuple | list) else (result,):
        if isinstance(part, torch.Tensor):
            elements = part.numel() if part.numel() % batch else part.numel() // batch
            if elements > MOST_ELEMENTS:
                raise GraphError(f"node '{node.name}' makes a tensor of {elements} elements for one image")
        elif isinstance(part, int | float) and abs(part) > LARGEST_SIZE * batch**2:
            raise GraphError(f"node '{node.name}' computes {part:.3g}, which is no size")


def _size(node: fx.Node, first: int, second: int, batch: Any) -> Any:
    """Return a size that was ``first`` and ``second`` for the two batches in units of the symbolic one."""
    if first == second:
        return first
    times, rest = divmod(first, _BATCHES[0])
    if rest or times * _BATCHES[1] != second:
        raise GraphError(f"node '{node.name}' has a size, {first} and {second} for batches of {_BATCHES}, of no use")
    return times * batch
