"""Norms of every kind as one thing: a scale and a bias per channel, and all layers that read the result.

Layer, RMS, batch, group and instance norms have both as arguments. A norm that is written out has them as a product
with a stored factor and a sum with a stored term behind it.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx

from vitq.errors import GraphError
from vitq.graph.edit import node_named
from vitq.graph.graph import Graph
from vitq.graph.ops import ADD, aten, is_op, module_path, origin, value
from vitq.graph.parameters import require_own
from vitq.graph.queries.consumers import Consumer, consumers_of
from vitq.graph.queries.frames import Frame
from vitq.graph.queries.numbers import TYPE, tensor_users
from vitq.graph.readings import find_readings
from vitq.graph.role import Role

PLACES: dict[Any, tuple[int, int | None]] = {
    aten.layer_norm.default: (2, 3),
    aten.rms_norm.default: (2, None),
    aten.group_norm.default: (2, 3),
    aten.batch_norm.default: (1, 2),
    aten._native_batch_norm_legit_no_training.default: (1, 2),
    aten.instance_norm.default: (1, 2),
}
"""Where each norm takes its scale and its bias."""

LAST_AXIS = {aten.layer_norm.default, aten.rms_norm.default}


@dataclass(frozen=True)
class Slot:
    """The argument ``place`` of ``owner``: a stored tensor, or nothing yet where the operation may do without it."""

    owner: fx.Node
    place: int


@dataclass(frozen=True)
class AffineNorm:
    """A norm called ``name``: the node that holds its result, scale and bias per channel, and who reads it.

    ``no_shift`` says why nothing can be subtracted from the result; empty where it can.
    """

    name: str
    result: fx.Node
    channels: int
    scale: Slot
    bias: Slot | None
    consumers: tuple[Consumer, ...]

    @property
    def no_shift(self) -> str:
        """Why the norm's result cannot be shifted; empty where bias and consumers can take a shift up."""
        if self.bias is None:
            return f"'{self.name}' has no bias"
        return next((consumer.no_shift for consumer in self.consumers if consumer.no_shift), "")


@dataclass(frozen=True)
class Refused:
    """A norm that has to stay as it is, and why; ``read``: whether a product reads what it gives."""

    name: str
    reason: str
    read: bool


def affine_norms(graph: Graph) -> Iterator[AffineNorm | Refused]:
    """Find every norm of ``graph`` in order, with its layers or with the reason why it has to stay as it is."""
    written = {reading.owner for reading in find_readings(graph.module.graph) if reading.role is Role.NORM_INPUT}
    seen, products = Counter[str](), [site for site in graph.sites.values() if site.of_product]
    read = {origin(node_named(graph.module, site.node)) for site in products}
    for node in [node for node in graph.module.graph.nodes if node in written or is_op(node, set(PLACES))]:
        own = module_path(node) or node.name
        seen[own] += 1
        name = own if seen[own] == 1 else f"{own}.{seen[own]}"
        try:
            yield _affine(graph, node, name)
        except GraphError as error:
            yield Refused(name, str(error), node in read or not is_op(node, set(PLACES)))


def slots_of(norm: fx.Node) -> tuple[Slot, Slot | None]:
    """Return where a norm, one of ``PLACES``, takes its scale and its bias; None: it knows no bias."""
    scale, bias = PLACES[norm.target]
    return Slot(norm, scale), None if bias is None else Slot(norm, bias)


def _affine(graph: Graph, norm: fx.Node, name: str) -> AffineNorm:
    if not is_op(norm, set(PLACES)):
        result, axis, scale, bias = _written_out(graph, norm)
    else:
        result = norm
        if isinstance(value(norm), tuple | list):
            (result,) = [user for user in norm.users if user.args[1] == 0]
        if norm.target in LAST_AXIS and len(norm.args[1]) != 1:  # type: ignore[arg-type]
            raise GraphError(f"'{norm.name}' norms several axes together")
        axis = -1 if norm.target in LAST_AXIS else 1 - value(result).ndim
        scale, bias = slots_of(norm)
        for slot in (scale, *([] if bias is None else [bias])):
            require_own(graph, slot.owner, slot.place)
    channels = int(value(result).shape[axis])
    consumers = consumers_of(graph, result, Frame(axis, 1), channels)
    return AffineNorm(name, result, channels, scale, bias, consumers)


def _written_out(graph: Graph, norm: fx.Node) -> tuple[fx.Node, int, Slot, Slot | None]:
    """Return result, channel axis, scale and bias of a norm whose last operation before them is ``norm``."""
    scale: Slot | None = None
    bias: Slot | None = None
    node, axis = norm, -1
    while bias is None and not (scale is not None and node.name in graph.compared):
        users = list(tensor_users(node))
        stored = _stored(users[0]) if len(users) == 1 else None
        if len(users) == 1 and is_op(users[0], TYPE):
            node = users[0]
            continue
        if stored is None or (scale is None) != is_op(users[0], {aten.mul.Tensor}):
            break
        slot = Slot(users[0], stored)
        held = value(users[0].args[stored])  # type: ignore[arg-type]
        along = [place for place in range(-held.ndim, 0) if held.shape[place] != 1]
        if len(along) != 1 or (scale is not None and along != [axis]):
            break
        require_own(graph, slot.owner, slot.place)
        node, axis = users[0], along[0]
        scale, bias = (slot, None) if scale is None else (scale, slot)
    if scale is None:
        raise GraphError(f"'{norm.name}' is a norm that is written out without a scale per channel behind it")
    return node, axis, scale, bias


def _stored(node: fx.Node) -> int | None:
    """Return which operand of a product or a sum is stored."""
    if is_op(node, {aten.mul.Tensor} | ADD) and not node.kwargs:
        for place in (0, 1):
            operand = node.args[place]
            if isinstance(operand, fx.Node) and operand.op == "get_attr":
                return place
    return None
