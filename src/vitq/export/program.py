"""Torch's program of a lowered graph, which the ONNX exporter then takes as it is instead of tracing it again."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx
from torch.export import Dim, ExportedProgram


def program(module: fx.GraphModule, example_BCHW: torch.Tensor, batch: Dim) -> ExportedProgram:
    """Return ``module`` as a program of dynamic ``batch`` that does not decompose what needs no decomposition.

    The exporter has every program decomposed, by a trace that takes half of its time. A lowered graph has nothing in
    place, and seldom an operator without a translation. Source: vitq.
    """
    made = torch.export.export(module, (example_BCHW,), dynamic_shapes=({0: batch},), strict=False)
    traced = made.run_decompositions

    def run_decompositions(table: Mapping[Any, Callable[..., Any]], **options: Any) -> ExportedProgram:
        targets = {node.target for node in made.graph.nodes if node.op == "call_function"}
        return traced(dict(table), **options) if any(_is_open(target, table) for target in targets) else made

    setattr(made, "run_decompositions", run_decompositions)  # noqa: B010 - a method, to a type checker
    return made


def _is_open(target: Any, table: Mapping[Any, Callable[..., Any]]) -> bool:
    """Tell whether an operator has to be taken apart: it is in the table, writes in place, or holds graphs."""
    if not isinstance(target, torch._ops.OpOverload):
        return isinstance(target, torch._ops.HigherOrderOperator)
    return target in table or target._schema.is_mutable
