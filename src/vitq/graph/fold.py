"""Fold what does not depend on the image, and drop operations that change nothing."""

from typing import Any, cast

import torch
from torch import fx

from vitq.graph.edit import delete_unused_tensors, insert_constant, replace
from vitq.graph.ops import IDENTITY, PAD, VIEW, aten, attribute, is_op, is_size, is_tensor, value

UNWRITTEN: dict[Any, Any] = {
    aten.empty.memory_format: aten.zeros.default,
    aten.empty_like.default: aten.zeros_like.default,
    aten.new_empty.default: aten.new_zeros.default,
}
"""What makes memory with anything in it, and what makes zeros in its place."""


SIZED_AS: set[Any] = {
    aten.zeros_like.default, aten.ones_like.default, aten.full_like.default,
    aten.new_zeros.default, aten.new_ones.default, aten.new_full.default,
}  # fmt: skip
"""What takes of a tensor nothing but how large it is."""


def depends_on_input(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes computed from the model's input, sizes included."""
    dependent: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(n in dependent for n in node.all_input_nodes):
            dependent.add(node)
    return dependent


def depends_on_image(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes computed from the input's values; what follows from its sizes alone does not count."""
    dependent: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or (not is_size(node) and any(n in dependent for n in node.all_input_nodes)):
            dependent.add(node)
    return dependent


def holds_image(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes that may hold other values for another image of the same size.

    They are those of ``depends_on_image`` but for what is made as large as one of them, such as zeros.
    """
    dependent: set[fx.Node] = set()
    for node in graph.nodes:
        computed = not is_size(node) and not is_op(node, SIZED_AS)
        if node.op == "placeholder" or (computed and any(n in dependent for n in node.all_input_nodes)):
            dependent.add(node)
    return dependent


def fold_constants(module: fx.GraphModule) -> None:
    """Replace every input-independent result that is used (relative position biases, …) by a buffer."""
    graph = module.graph
    _drop_unused(graph)
    dependent = depends_on_input(graph)
    constants: dict[fx.Node, Any] = {}
    for node in list(graph.nodes):
        if node in dependent or node.op == "output":
            continue
        if node.op == "get_attr":
            constants[node] = attribute(module, str(node.target))
        elif node.op == "call_function":
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: constants[n])
            with torch.no_grad():
                constants[node] = node.target(*args, **kwargs)
    for number, node in enumerate(n for n in list(graph.nodes) if n in constants and n.op == "call_function"):
        if any(user in dependent for user in node.users) and isinstance(constants[node], torch.Tensor):
            buffer = insert_constant(module, f"folded_{number}", constants[node].detach().clone(), before=node)
            buffer.meta = dict(node.meta)
            replace(module, node, buffer, keep_name=False)
    _drop_unused(graph)
    module.delete_all_unused_submodules()
    delete_unused_tensors(module)
    module.recompile()


def simplify(module: fx.GraphModule) -> None:
    """Drop clones, aliases, idle dropouts and empty pads, which keep every value; let views copy where they must."""
    for node in list(module.graph.nodes):
        if is_op(node, VIEW):
            node.target = aten.reshape.default
        _spell_out(node)
        empty_pad = is_op(node, PAD) and not any(node.args[1])
        if empty_pad or (is_op(node, IDENTITY) and "memory_format" not in node.kwargs and is_tensor(node)):
            replace(module, node, node.args[0], keep_name=False)
    module.recompile()


def _spell_out(node: fx.Node) -> None:
    """Let ``node`` do for every batch size and in every run what it does in this one.

    A squeeze names its dimensions, for with one image the batch is one of them; what is not written yet is zero.
    """
    if is_op(node, {aten.squeeze.default}):
        shape = value(cast(fx.Node, node.args[0])).shape
        node.target = aten.squeeze.dims
        node.args = (node.args[0], [dim for dim, size in enumerate(shape) if isinstance(size, int) and size == 1])
    elif is_op(node, set(UNWRITTEN)):
        node.target = UNWRITTEN[node.target]
        node.kwargs = {name: given for name, given in node.kwargs.items() if name != "memory_format"}


def _drop_unused(graph: fx.Graph) -> None:
    """Erase what nobody reads, with its effects: assertions on devices, updates of counters, unused noise."""
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
