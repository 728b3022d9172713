"""What layers, sums and scales do with the channels of a stream."""

import torch
from torch import fx

from vitq.errors import GraphError
from vitq.graph.ops import ADD, CONV, NORM, TRANSPOSED, aten, is_op, value
from vitq.graph.parameters import parameter_node
from vitq.graph.queries.frames import Frame

SUM = ADD | {aten.sub.Tensor}
PLAIN_CONV = CONV - TRANSPOSED - {aten.convolution.default}
"""Convolutions that are never transposed."""


def terms_of(node: fx.Node, frame: Frame) -> list[fx.Node]:
    """Return the terms of a sum; raise GraphError where one has no channels of its own."""
    size = value(node).shape[frame.axis]
    for term in node.args[:2]:
        shape = value(term).shape if isinstance(term, fx.Node) else ()
        if len(shape) < -frame.axis or shape[frame.axis] != size:
            raise GraphError(f"'{node.name}' adds one value to all channels")
    return [term for term in node.args[:2] if isinstance(term, fx.Node)]


def channel_scale(node: fx.Node, frame: Frame) -> tuple[fx.Node, fx.Node] | None:
    """Return the constant and the tensor where ``node`` multiplies each channel by a stored factor."""
    if not is_op(node, {aten.mul.Tensor}):
        return None
    for constant, other in (node.args[:2], reversed(node.args[:2])):
        if isinstance(constant, fx.Node) and isinstance(other, fx.Node) and constant.op == "get_attr":
            shape = value(constant).shape
            own = len(shape) >= -frame.axis and shape[frame.axis] == value(node).shape[frame.axis] == shape.numel()
            return (constant, other) if own and other.op != "get_attr" else None
    return None


def channel_axis_of(node: fx.Node) -> int:
    """Return the channel axis of a convolution's input and result, else the last one."""
    return 1 - value(node).ndim if is_op(node, CONV) else -1


def groups_of(op: fx.Node) -> int:
    """Return in how many groups a convolution that is not transposed reads its channels."""
    weight = parameter_node(op, 1)
    assert weight is not None
    return int(value(op.args[0]).shape[channel_axis_of(op)] // value(weight).shape[1])  # type: ignore[arg-type]


def groups_of_transposed(op: fx.Node) -> int:
    """Return in how many groups a transposed convolution reads its channels."""
    place = 8 if is_op(op, {aten.convolution.default}) else 6
    groups = op.args[place] if len(op.args) > place else 1
    assert isinstance(groups, int)
    return groups


def pads(op: fx.Node) -> bool:
    """Tell whether a convolution adds zeros around its input."""
    padding = op.args[4] if is_op(op, CONV) and len(op.args) > 4 else 0
    return padding != "valid" if isinstance(padding, str) else bool(torch.tensor(padding).any())


def why_not(node: fx.Node) -> str:
    """Say what ``node`` is that no parameter of it can change the channels."""
    if is_op(node, NORM):
        return f"'{node.name}' is a norm whose scale and bias stand on the stream"
    if node.op in ("placeholder", "output"):
        return f"'{node.name}' is the model's {'input' if node.op == 'placeholder' else 'output'}"
    if getattr(node.target, "__name__", "") == "getitem":
        node = node.all_input_nodes[0]
    return f"'{node.name}' ({node.target}) is neither linear in the channels nor a layer with weights"
