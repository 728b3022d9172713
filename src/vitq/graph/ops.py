"""What the operations of a captured graph mean, and how to walk along them."""

import operator
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import fx, nn

aten = torch.ops.aten

LINEAR = {aten.linear.default}
TRANSPOSED = {aten.conv_transpose1d.default, aten.conv_transpose2d.input}
"""Transposed convolutions: their weights have input channels first, output channels second."""

CONV = TRANSPOSED | {
    aten.conv1d.default,
    aten.conv1d.padding,
    aten.conv2d.default,
    aten.conv2d.padding,
    aten.convolution.default,
}
MATMUL = {aten.matmul.default, aten.bmm.default, aten.mm.default}
ATTENTION = {aten.scaled_dot_product_attention.default}
SOFTMAX = {aten.softmax.int, aten._softmax.default}
NORM = {aten.layer_norm.default, aten.rms_norm.default}
ACTIVATION = {
    aten.gelu.default,
    aten.silu.default,
    aten.relu.default,
    aten.relu6.default,
    aten.hardswish.default,
    aten.sigmoid.default,
    aten.mish.default,
    aten.leaky_relu.default,
    aten.elu.default,
    aten.prelu.default,
    aten.softplus.default,
}
GATE = {
    aten.sigmoid.default,
    aten.erf.default,
    aten.tanh.default,
    aten.relu.default,
    aten.relu6.default,
    aten.hardtanh.default,
    aten.hardsigmoid.default,
    aten.softplus.default,
}
"""What bends inside an activation function."""

ELEMENTWISE = {
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.rsub.Scalar,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.neg.default,
    aten.square.default,
    aten.pow.Tensor_Scalar,
}
MOST_ELEMENTWISE = 16
"""Operations of the longest activation function that is written out: GELU by tanh has eight."""

ADD = {aten.add.Tensor}
IDENTITY = {aten.clone.default, aten.alias.default, aten.detach.default, aten.dropout.default}
"""Operations that keep every value and every position."""

PAD = {aten.pad.default, aten.constant_pad_nd.default}
VIEW = {aten.view.default, aten._unsafe_view.default}
MOVE = (
    IDENTITY
    | VIEW
    | {
        aten.reshape.default,
        aten.flatten.using_ints,
        aten.permute.default,
        aten.transpose.int,
        aten.contiguous.default,
        aten.expand.default,
        aten.unsqueeze.default,
        aten.squeeze.dim,
        aten.select.int,
        aten.slice.Tensor,
        aten.roll.default,
        aten.pad.default,
        aten.constant_pad_nd.default,
        aten.unbind.int,
        aten.split.Tensor,
        aten.split_with_sizes.default,
        aten.chunk.default,
        aten.cat.default,
    }
)
"""Operations that move values without computing new ones."""

SCALE = {
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.where.self,
    aten.masked_fill.Scalar,
}
"""What may stand between the query-key product and its softmax: scale, bias and mask."""


def is_op(node: Any, targets: set[Any]) -> bool:
    """Tell whether ``node`` calls one of ``targets``."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets


def is_transposed(node: Any) -> bool:
    """Tell whether ``node`` is a transposed convolution, whose weight has its output channels second."""
    return is_op(node, TRANSPOSED) or (is_op(node, {aten.convolution.default}) and bool(node.args[6]))


def is_move(node: fx.Node) -> bool:
    """Tell whether ``node`` only moves values (views, permutations, unpacking of a tuple)."""
    return is_op(node, MOVE) or (node.op == "call_function" and node.target is operator.getitem)


def first_input(node: fx.Node) -> fx.Node:
    """Return the first node among the arguments, looking into lists (``cat``)."""
    return next(iter(node.all_input_nodes))


def origin(node: fx.Node) -> fx.Node:
    """Walk back over moves to the operation that computed the values of ``node``."""
    while is_move(node) and node.all_input_nodes:
        node = first_input(node)
    return node


def is_written_activation(node: fx.Node) -> bool:
    """Tell whether ``node`` is an activation written out: GELU by erf or tanh, x · sigmoid(c x), relu(x)², …"""
    return written_out(node, ELEMENTWISE | GATE, GATE) is not None


def written_out(node: fx.Node, parts: set[Any], gates: set[Any]) -> tuple[fx.Node, set[fx.Node]] | None:
    """Return the one tensor from which ``node`` follows by several ``parts`` on numbers, one a gate, and these parts.

    Walking back, the latest node first, that tensor is where a single one is left, as at a cut; None without one.
    """
    ahead, gated, inside = {node}, False, set[fx.Node]()
    for _ in range(MOST_ELEMENTWISE):
        latest = max(ahead)
        if not is_op(latest, parts) or constant_factor(latest):
            return None
        gated = gated or is_op(latest, gates)
        inside.add(latest)
        ahead = (ahead - {latest}) | set(latest.all_input_nodes)
        if gated and len(ahead) == 1:
            return (ahead.pop(), inside) if latest is not node else None
    return None


def constant_factor(node: fx.Node) -> bool:
    """Tell whether ``node`` multiplies its first argument by a stored constant, which keeps the role of its values."""
    return is_op(node, {aten.mul.Tensor}) and isinstance(node.args[1], fx.Node) and node.args[1].op == "get_attr"


def leads_to(node: fx.Node, targets: set[Any], through: Callable[[fx.Node], bool], limit: int = 12) -> fx.Node | None:
    """Return the first user of ``node`` that calls one of ``targets``, reached by ``through`` nodes only."""
    frontier = [node]
    for _ in range(limit):
        users = list(dict.fromkeys(user for n in frontier for user in n.users))
        for user in users:
            if is_op(user, targets):
                return user
        frontier = [user for user in users if through(user)]
    return None


def value(node: fx.Node) -> Any:
    """Return the fake value (shape and dtype) that capture recorded for ``node``."""
    return node.meta.get("val")


def is_tensor(node: fx.Node) -> bool:
    """Tell whether ``node`` holds one tensor (neither a size nor a tuple)."""
    return isinstance(value(node), torch.Tensor)


def is_size(node: fx.Node) -> bool:
    """Tell whether ``node`` computes a symbolic or plain number: no tensor and no tuple of tensors."""
    return node.op == "call_function" and not isinstance(value(node), torch.Tensor | tuple | list)


def attribute(module: nn.Module, path: str) -> Any:
    """Return what ``module`` holds at the dotted ``path``."""
    owner, _, name = path.rpartition(".")
    return getattr(module.get_submodule(owner), name)


def module_path(node: fx.Node) -> str:
    """Return the dotted path of the innermost module that ran ``node`` ("" for the model itself)."""
    stack = node.meta.get("nn_module_stack")
    return cast(str, list(stack.values())[-1][0]) if stack else ""


def in_order(graph: fx.Graph) -> Iterator[tuple[int, fx.Node]]:
    """Enumerate the nodes that compute something, in execution order."""
    return ((i, n) for i, n in enumerate(graph.nodes) if n.op in ("call_function", "call_module"))
