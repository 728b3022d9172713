"""Fake values: the shapes and dtypes of a graph, with a symbolic batch, without computing anything."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from vitq.errors import GraphError
from vitq.graph.bounds import require_affordable, require_bounded, require_kept, require_room, require_steady
from vitq.graph.fake_results import fake_empty, fake_like, result_of
from vitq.graph.ops import attribute

_BATCHES = (8191, 8179)
"""Two primes that stand for the batch, one after the other; what differs between them depends on it."""

_SINGLE = 1
"""The smallest batch, for which every size has to be what follows from the two others."""


def annotate(module: fx.GraphModule, shape: Sequence[int | None], dtype: torch.dtype) -> None:
    """Give every node of ``module`` the fake value that capture would have recorded, in place.

    ``shape`` is that of the one input, None where a dimension is the symbolic batch. Raises GraphError where a
    node does not run on the shapes of its arguments, runs for one batch size only, or costs more than ``bounds``
    allows. Sizes come from runs with numbers: operations that compare symbolic sizes fix them, each release of torch
    others. Two large batches and the smallest say what a size is for all between, as no operation here jumps.
    """
    batches = (*_BATCHES, _SINGLE) if None in shape else (_SINGLE,) * 3
    runs = [_run(module, [size or batch for size in shape], dtype, batch) for batch in dict.fromkeys(batches)]
    runs = runs if len(runs) == 3 else runs * 3
    require_room(module.graph, runs[0], batches[0])
    mode = FakeTensorMode(shape_env=ShapeEnv())
    context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC])  # type: ignore[var-annotated]
    batch: Any = mode.from_tensor(torch.empty(_BATCHES[0]), symbolic_context=context).shape[0]
    made = dict[Any, Any]()  # nodes of equal layouts share a value
    for node in module.graph.nodes:
        if node.op == "output":
            continue
        first, second, single = (run[node] for run in runs)
        numbers = [fx.node.map_arg(node.args, run.__getitem__) for run in runs]
        require_steady(node, *numbers[:2])
        if isinstance(first, torch.Tensor):
            if not first.ndim == second.ndim == single.ndim:
                raise GraphError(f"node '{node.name}' has as many dimensions for one batch size only")
            layout = first.shape, second.shape, single.shape, first.dtype, first.device
            if layout not in made:
                sizes = [_size(node, *three, batch) for three in zip(*layout[:3], strict=True)]
                with mode:
                    made[layout] = torch.empty(sizes, dtype=first.dtype, device=first.device)
            node.meta["val"] = made[layout]
        elif isinstance(first, int):
            node.meta["val"] = _size(node, first, second, single, batch)
        else:
            node.meta["val"] = first


def fake_result(mode: FakeTensorMode, target: Any, *args: Any) -> Any:
    """Return what operation ``target`` gives on fake values, whose sizes stay as symbolic as they are.

    Without guards: a product compares sizes, and torch 2.11 would then take the batch for its example's everywhere.
    """
    assert mode.shape_env is not None
    with mode, mode.shape_env.suppress_guards():
        return target(*args)


def _run(module: fx.GraphModule, shape: Sequence[int], dtype: torch.dtype, batch: int) -> dict[fx.Node, Any]:
    """Return the fake result of every node for an input of ``shape``, which holds ``batch`` images."""
    results = dict[fx.Node, Any]()
    for node in module.graph.nodes:
        if node.op == "placeholder":
            results[node] = fake_empty(shape, dtype)
        elif node.op == "get_attr":
            results[node] = fake_like(attribute(module, str(node.target)))
        elif node.op == "call_module":
            results[node] = results[node.all_input_nodes[0]]
            require_kept(node, results[node], module.get_submodule(str(node.target)))
        elif node.op == "call_function":
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), results.__getitem__)
            try:
                require_affordable(node, args, kwargs)
                results[node] = result_of(node.target, args, kwargs)
                require_bounded(node, results[node], batch)
            except GraphError:
                raise
            except Exception as error:  # torch raises many unrelated types
                raise GraphError(
                    f"node '{node.name}' does not run on the shapes of its arguments, or runs for one batch size only "
                    f"(here {batch}): {error}"
                ) from error
    return results


def _size(node: fx.Node, first: int, second: int, single: int, batch: Any) -> Any:
    """Return a size that was ``first``, ``second`` and ``single`` for the batches in units of the symbolic one."""
    times, rest = divmod(first, _BATCHES[0])
    if first == second == single:
        return first
    if first == second or rest or times * _BATCHES[1] != second or times * _SINGLE != single:
        seen = f"{first}, {second} and {single} for batches of {(*_BATCHES, _SINGLE)}"
        raise GraphError(f"node '{node.name}' has a size, {seen}, of no use")
    return times * batch
