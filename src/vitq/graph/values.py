"""Fake values: the shapes and dtypes of a graph, with a symbolic batch, without computing anything."""

from collections.abc import Sequence

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from vitq.errors import GraphError
from vitq.graph.ops import attribute, value


def annotate(module: fx.GraphModule, shape: Sequence[int | None], dtype: torch.dtype) -> None:
    """Give every node of ``module`` the fake value that capture would have recorded, in place.

    ``shape`` is that of the one input, None where a dimension is symbolic (the batch). Raises GraphError
    where a node does not run on the shapes of its arguments.
    """
    mode = FakeTensorMode(shape_env=ShapeEnv())
    for node in module.graph.nodes:
        if node.op == "placeholder":
            example = torch.empty([2 if size is None else size for size in shape], dtype=dtype)
            dynamic = [DimDynamic.DYNAMIC if size is None else DimDynamic.STATIC for size in shape]
            context = StatelessSymbolicContext(dynamic_sizes=dynamic)  # type: ignore[var-annotated]
            node.meta["val"] = mode.from_tensor(example, symbolic_context=context)
        elif node.op == "get_attr":
            node.meta["val"] = mode.from_tensor(attribute(module, str(node.target)), static_shapes=True)
        elif node.op == "call_module":
            node.meta["val"] = value(node.all_input_nodes[0])
        elif node.op == "call_function":
            _run(mode, node)


def _run(mode: FakeTensorMode, node: fx.Node) -> None:
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), value)
    try:
        with mode, torch.no_grad():
            node.meta["val"] = node.target(*args, **kwargs)  # type: ignore[operator]
    except Exception as error:  # torch raises many unrelated types
        raise GraphError(f"node '{node.name}' does not run on the shapes of its arguments: {error}") from error
