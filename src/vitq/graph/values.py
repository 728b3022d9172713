"""Fake values: the shapes and dtypes of a graph, with a symbolic batch, without computing anything."""

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
            try:
                with mode, torch.no_grad():
                    results[node] = node.target(*args, **kwargs)
            except Exception as error:  # torch raises many unrelated types
                where = ", or runs for one batch size only" if batched else ""
                raise GraphError(
                    f"node '{node.name}' does not run on the shapes of its arguments{where}: {error}"
                ) from error
    return results


def _size(node: fx.Node, first: int, second: int, batch: Any) -> Any:
    """Return a size that was ``first`` and ``second`` for the two batches in units of the symbolic one."""
    if first == second:
        return first
    times, rest = divmod(first, _BATCHES[0])
    if rest or times * _BATCHES[1] != second:
        raise GraphError(f"node '{node.name}' has a size, {first} and {second} for batches of {_BATCHES}, of no use")
    return times * batch
