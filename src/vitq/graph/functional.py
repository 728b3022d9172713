"""Torch's export as a graph with nothing in place and no composite views, without tracing the model a second time."""

import operator
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import fx
from torch.export import ExportedProgram

from vitq.graph.edit import insert_call
from vitq.graph.ops import CONV, LINEAR, aten, value

Call = tuple[Any, tuple[Any, ...], dict[str, Any]]
"""An operator, its arguments, and those by name."""


def functional(program: ExportedProgram) -> fx.GraphModule:
    """Return the module of ``program``, whose operations make new tensors or simple views.

    What torch writes in place, or as a composite of views, is spelt out here. Where that is not possible, torch's
    ``run_decompositions`` traces the program again, which takes more time than its export. Source: vitq; the graph is
    that of ``run_decompositions`` but for names and copies.
    """
    module = program.module()
    calls = {node: spelt_out(node) for node in module.graph.nodes if node.op == "call_function"}
    if None in calls.values():
        return cast(fx.GraphModule, program.run_decompositions({}).module())
    for node, call in calls.items():
        node.target, node.args, node.kwargs = cast(Call, call)
        if node.target is NORM:  # of three results
            node.target, node.args = operator.getitem, (insert_call(module, NORM, node.args, before=node), 0)
    module.graph.lint()
    module.recompile()
    return module


def spelt_out(node: fx.Node) -> Call | None:
    """Return the call that gives the values of ``node`` and writes over nothing, None where that takes a trace."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return None if isinstance(target, torch._ops.HigherOrderOperator) else (target, node.args, node.kwargs)
    if target in SPELLINGS:
        return SPELLINGS[target](node)
    if target._schema.is_mutable:
        outside = _outside(target)
        return (outside, node.args, node.kwargs) if outside is not None and _alone(node) else None
    views = any(argument.alias_info is not None for argument in target._schema.arguments)
    taken_apart = target not in KEPT and (TAKEN_APART in target.tags or (views and _is_composite(target)))
    return None if target.namespace != "aten" or taken_apart else (target, node.args, node.kwargs)


def _is_composite(target: torch._ops.OpOverload) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(target.name(), "CompositeImplicitAutograd"))


def _outside(target: torch._ops.OpOverload) -> Any:
    """Return the operator that gives as a new tensor what ``target`` writes over its first argument, None without."""
    name, (first, *others) = target._schema.name.removeprefix("aten::"), target._schema.arguments
    written = first.alias_info is not None and not any(
        a.alias_info is not None and a.alias_info.is_write for a in others
    )
    return getattr(getattr(aten, name[:-1], None), target._overloadname, None) if written and name[-1] == "_" else None


def _alone(node: fx.Node) -> bool:
    """Tell whether a node writes over a tensor that was made for it, and that nobody else reads under any name."""
    source = node.args[0]
    if not isinstance(source, fx.Node) or len(source.users) > 1 or not isinstance(source.target, torch._ops.OpOverload):
        return False
    if source.target._schema.is_mutable:
        return _alone(source)
    new = all(result.alias_info is None for result in source.target._schema.returns)
    return new and (source.target in MADE or not _is_composite(source.target))


def _sizes(node: fx.Node) -> Call | None:
    sizes = [size if isinstance(size, int) else -1 for size in value(node).shape]
    return (aten.reshape.default, (node.args[0], sizes), {}) if sizes.count(-1) < 2 else None


def _expand_as(node: fx.Node) -> Call | None:
    before, after = (value(cast(fx.Node, x)).shape for x in node.args)
    kept = [None] * (len(after) - len(before)) + list(before)
    sizes = [a if isinstance(a, int) else -1 if str(a) == str(b) else None for a, b in zip(after, kept, strict=True)]
    return None if None in sizes else (aten.expand.default, (node.args[0], sizes), {})


def _to(node: fx.Node) -> Call:
    x, dtype = node.args[:2]
    if value(cast(fx.Node, x)).dtype is dtype:
        return aten.alias.default, (x,), {}
    return aten._to_copy.default, (x,), {"dtype": dtype}


def _batch_norm(node: fx.Node) -> Call | None:
    x, weight, bias, mean, variance, training, momentum, epsilon, _ = node.args
    return None if training else (NORM, (x, weight, bias, mean, variance, momentum, epsilon), {})


NORM = aten._native_batch_norm_legit_no_training.default
KEPT = {aten.dropout.default, aten.reshape.default, aten.contiguous.default, aten.chunk.default}
"""Operators that later passes know as they are; a dropout that is on is refused there."""
MADE = LINEAR | CONV | {aten.batch_norm.default, aten.layer_norm.default, aten.group_norm.default, aten.matmul.default}
"""Composite operators whose result is always a new tensor; others may give back what they were given."""
TAKEN_APART = getattr(torch.Tag, "maybe_aliasing_or_mutating", None)
"""Torch's mark of what may write or be a view in some cases, where the installed version has it."""

SPELLINGS: dict[Any, Callable[[fx.Node], Call | None]] = {
    aten.flatten.using_ints: _sizes,
    aten.unflatten.int: _sizes,
    aten.reshape_as.default: _sizes,
    aten.expand_as.default: _expand_as,
    aten.to.dtype: _to,
    aten.mT.default: lambda node: (aten.transpose.int, (node.args[0], -2, -1), {}),
    aten.batch_norm.default: _batch_norm,
}
