"""Fake values: the shapes and dtypes of a graph, with a symbolic batch, without computing anything."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from vitq.errors import GraphError
from vitq.graph.ops import attribute, value

_UNUSUAL = 8191
"""The batch that stands for any batch: no size in a model equals it by chance and would fix it."""


def annotate(module: fx.GraphModule, shape: Sequence[int | None], dtype: torch.dtype) -> None:
    """Give every node of ``module`` the fake value that capture would have recorded, in place.

    ``shape`` is that of the one input, None where a dimension is the symbolic batch. Raises GraphError where a
    node does not run on the shapes of its arguments, or runs for one batch size only.
    """
    mode = FakeTensorMode(shape_env=ShapeEnv())
    context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC])  # type: ignore[var-annotated]
    (batch,) = mode.from_tensor(torch.empty(_UNUSUAL), symbolic_context=context).shape
    for node in module.graph.nodes:
        if node.op == "placeholder":
            with mode:
                node.meta["val"] = torch.empty([batch if size is None else size for size in shape], dtype=dtype)
        elif node.op == "get_attr":
            node.meta["val"] = mode.from_tensor(attribute(module, str(node.target)), static_shapes=True)
        elif node.op == "call_module":
            node.meta["val"] = value(node.all_input_nodes[0])
        elif node.op == "call_function":
            _run(mode, node)
            if cast(torch.SymInt, batch).node.maybe_as_int() is not None:
                raise GraphError(f"node '{node.name}' runs for one batch size only")


def _run(mode: FakeTensorMode, node: fx.Node) -> None:
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), value)
    try:
        with mode, torch.no_grad():
            node.meta["val"] = node.target(*args, **kwargs)  # type: ignore[operator]
    except Exception as error:  # torch raises many unrelated types
        raise GraphError(f"node '{node.name}' does not run on the shapes of its arguments: {error}") from error
