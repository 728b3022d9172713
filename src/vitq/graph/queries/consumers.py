"""Layers that take a tensor's channels up in their weights: linears, convolutions, products with a stored matrix."""

from dataclasses import dataclass

import torch
from torch import fx

from vitq.errors import GraphError
from vitq.graph.edit import node_named
from vitq.graph.graph import Graph
from vitq.graph.ops import CONV, LINEAR, MATMUL, is_op, is_transposed, value
from vitq.graph.parameters import parameter_node, require_own
from vitq.graph.queries.frames import Frame, after, linear_in_channels
from vitq.graph.queries.layers import channel_axis_of, groups_of, groups_of_transposed, pads, why_not
from vitq.graph.queries.numbers import is_scalar_product, tensor_inputs, tensor_users
from vitq.graph.sites import Site


@dataclass(frozen=True)
class Consumer:
    """One layer that reads ``source``, whose channels lie as ``frame`` says; its weight is ``op.args[weight]``.

    What divides the channels is multiplied onto the weight. What is subtracted from them goes into the layer's bias,
    unless ``no_shift`` says why it cannot.
    """

    op: fx.Node
    source: fx.Node
    frame: Frame
    channels: int
    weight: int
    no_shift: str = ""

    @property
    def weight_node(self) -> fx.Node:
        """The stored weight, behind its quantizer."""
        node = parameter_node(self.op, self.weight)
        assert node is not None
        return node

    def spread(self, values_C: torch.Tensor) -> torch.Tensor:
        """Return one value per channel in a shape that broadcasts against the weight."""
        values_I, weight = values_C.repeat(self.frame.blocks), value(self.weight_node)
        if is_op(self.op, MATMUL):
            return values_I[:, None] if self.weight == 1 else values_I
        if is_transposed(self.op):
            return values_I.reshape(-1, *[1] * (weight.ndim - 1))
        groups = groups_of(self.op)
        values_OI = values_I.reshape(groups, -1).repeat_interleave(int(weight.shape[0]) // groups, 0)
        return values_OI.reshape(*values_OI.shape, *[1] * (weight.ndim - 2))

    def along(self, values_C: torch.Tensor) -> torch.Tensor:
        """Return one value per channel in a shape that broadcasts against ``source``."""
        return values_C.repeat(self.frame.blocks).reshape(-1, *[1] * (-self.frame.axis - 1))

    def per_channel(self, x: torch.Tensor) -> torch.Tensor:
        """Return the values of ``source`` as x_NC."""
        return x.movedim(self.frame.axis, -1).reshape(-1, self.channels)


def consumers_of(graph: Graph, tensor: fx.Node, frame: Frame, channels: int) -> tuple[Consumer, ...]:
    """Return all layers that read ``tensor``, directly or through what keeps every channel one channel.

    Raises GraphError, saying why, where anybody else reads it, channels are mixed or joined with others, a weight is
    shared, or teacher and student are compared in between.
    """
    reached: dict[fx.Node, tuple[Frame, str]] = {tensor: (frame, "")}
    found, stack = list[Consumer](), [tensor]
    while stack:
        node = stack.pop()
        own, no_shift = reached[node]
        if node.name in graph.compared:
            raise GraphError(f"'{node.name}' is where student and teacher are compared")
        for user in dict.fromkeys(tensor_users(node)):
            if not linear_in_channels(user):
                found.append(_consumer(graph, user, node, own, channels, no_shift))
            elif user not in reached:
                there, zeros = after(user, own, channels)
                why = f"'{user.name}' adds zeros" if zeros else _factor(user)
                reached[user] = (there, no_shift or why)
                stack.append(user)
    for node in reached:
        if node is not tensor and any(other not in reached for other in tensor_inputs(node)):
            raise GraphError(f"'{node.name}' joins '{tensor.name}' with something else")
    if not found:
        raise GraphError(f"no layer reads '{tensor.name}'")
    place = {node: i for i, node in enumerate(graph.module.graph.nodes)}
    return tuple(sorted(found, key=lambda consumer: place[consumer.op]))


def consumers_at(graph: Graph, site: Site) -> tuple[Consumer, ...]:
    """Return the layers that consume ``site``; GraphError, saying why, where one cannot take its channels up."""
    source, found = node_named(graph.module, site.node), list[Consumer]()
    for op in (node_named(graph.module, name) for name in site.consumers):
        axis = -2 if is_op(op, MATMUL) and op.args[0] is not source else channel_axis_of(op)
        channels = value(source).shape[axis]
        if not isinstance(channels, int):
            raise GraphError(f"'{op.name}' reads channels whose number depends on the batch")
        found.append(_consumer(graph, op, source, Frame(axis, 1), channels))
    if len({(consumer.frame, consumer.channels) for consumer in found}) != 1:
        raise GraphError(f"the layers that read '{source.name}' take its channels along different axes")
    return tuple(found)


def _consumer(graph: Graph, op: fx.Node, source: fx.Node, frame: Frame, channels: int, no_shift: str = "") -> Consumer:
    """Return ``op`` as a consumer of ``source``; raise GraphError where it is none."""
    operands = [place for place in (0, 1) if len(op.args) > place and op.args[place] is source]
    known = is_op(op, LINEAR | CONV | MATMUL) and len(operands) == 1
    if not known or (operands == [1] and not is_op(op, MATMUL)):
        raise GraphError(f"'{op.name}', which reads '{source.name}', is no layer with a weight: {why_not(op)}")
    weight, axis = 1 - operands[0], channel_axis_of(op)
    if is_op(op, MATMUL):
        axis, no_shift = -1 - operands[0], no_shift or f"'{op.name}' is a product without a bias"
        stored = parameter_node(op, weight)
        if stored is None or stored.op != "get_attr" or value(stored).ndim != 2:
            raise GraphError(f"'{op.name}' multiplies '{source.name}' with what is no stored matrix")
    if frame.axis != axis:
        raise GraphError(f"'{op.name}' reads '{source.name}' along another axis than its channels")
    require_own(graph, op, weight)
    no_shift = no_shift or ("" if is_op(op, MATMUL) else _shared_bias(graph, op))
    if is_transposed(op):
        no_shift = no_shift or f"'{op.name}' is a transposed convolution, whose border sees fewer values"
        if groups_of_transposed(op) != 1:
            raise GraphError(f"'{op.name}' is a transposed convolution in groups")
    elif pads(op):
        no_shift = no_shift or f"'{op.name}' adds zeros around its input"
    return Consumer(op, source, frame, channels, weight, no_shift)


def _shared_bias(graph: Graph, op: fx.Node) -> str:
    try:
        require_own(graph, op, 2)
    except GraphError as error:
        return str(error)
    return ""


def _factor(node: fx.Node) -> str:
    return f"'{node.name}' multiplies by a number" if is_scalar_product(node) else ""
