"""What operations other than products read: norms, softmax, activation functions and residual sums.

Norms and activation functions count when they are written out, too. A softmax's input is taken before stored or
size-dependent biases and masks are added: a mask would stretch its range.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from vitq.graph.fold import depends_on_image
from vitq.graph.ops import (
    ACTIVATION,
    ADD,
    ELEMENTWISE,
    GATE,
    MOVE,
    NORM,
    SCALE,
    SOFTMAX,
    aten,
    is_move,
    is_op,
    leads_to,
    origin,
    value,
    written_out,
)
from vitq.graph.role import Role

NORMS = NORM | {aten.group_norm.default, aten.instance_norm.default}
ROOT = {aten.rsqrt.default, aten.sqrt.default}
WRITTEN_NORM = ELEMENTWISE | ROOT | {aten.mean.dim, aten.var.correction, aten.var.dim, aten.pow.Tensor_Tensor}
ACTIVATIONS = ACTIVATION | GATE | {aten.celu.default, aten.selu.default, aten.glu.default}
REARRANGED = {aten.stack.default, aten.flip.default, aten.index_select.default}
"""How rotary embeddings put the halves of a vector in another place, beside moves."""

FURTHEST = 64
"""Steps of a walk from a sum's operands: rotary embeddings take about thirty."""


@dataclass(frozen=True)
class Reading:
    """One tensor that ``readers`` read in a ``role``; ``inside`` are the operations of its ``owner``."""

    source: fx.Node
    readers: tuple[fx.Node, ...]
    role: Role
    owner: fx.Node
    inside: frozenset[fx.Node]


def find_readings(graph: fx.Graph) -> list[Reading]:
    """Return the readings of ``graph``, first readers in execution order; the image itself is none."""
    dependent = depends_on_image(graph)
    place = {node: i for i, node in enumerate(graph.nodes)}
    found, covered = list[Reading](), set[fx.Node]()
    for node in reversed(graph.nodes):  # the last operation of what is written out comes before its parts
        if node not in dependent or node.op != "call_function" or node in covered:
            continue
        for reading in _readings(node, dependent):
            covered |= reading.inside
            if (
                reading.source in dependent
                and _is_floating(reading.source)
                and origin(reading.source).op != "placeholder"
            ):
                found.append(reading)
    return sorted(found, key=lambda reading: min(place[reader] for reader in reading.readers))


def _readings(node: fx.Node, dependent: set[fx.Node]) -> list[Reading]:
    if is_op(node, NORMS):
        return [_single(node, Role.NORM_INPUT)]
    if is_op(node, SOFTMAX):
        source, reader = _scores(node, dependent)
        return [Reading(source, (reader,), Role.SOFTMAX_INPUT, node, frozenset({node}))]
    for parts, gates, role in (
        (ELEMENTWISE | GATE, GATE, Role.ACTIVATION_INPUT),
        (WRITTEN_NORM, ROOT, Role.NORM_INPUT),
    ):
        written = written_out(node, parts, gates)
        if written is not None:
            return [_written(node, *written, role)]
    if is_op(node, ACTIVATIONS):
        return [_single(node, Role.ACTIVATION_INPUT)]
    return [Reading(operand, (node,), Role.RESIDUAL, node, frozenset()) for operand in _residual(node, dependent)]


def _single(node: fx.Node, role: Role) -> Reading:
    return Reading(node.all_input_nodes[0], (node,), role, node, frozenset({node}))


def _written(node: fx.Node, source: fx.Node, inside: set[fx.Node], role: Role) -> Reading:
    """Return the reading of what is written out; a norm's may begin at x - mean(x), which is part of it."""
    minus: Any = source.args if role is Role.NORM_INPUT and is_op(source, {aten.sub.Tensor}) else (None, None)
    if is_op(minus[1], {aten.mean.dim}) and minus[1].args[0] is minus[0]:
        inside, source = inside | {source, minus[1]}, minus[0]
    readers = tuple(user for user in source.users if user in inside)
    return Reading(source, readers, role, node, frozenset(inside))


def _scores(softmax: fx.Node, dependent: set[fx.Node]) -> tuple[fx.Node, fx.Node]:
    """Return the tensor before biases and masks that do not depend on the image, and the operation that reads it."""
    source, reader = softmax.all_input_nodes[0], softmax
    while True:
        behind = source
        while is_move(behind) and not is_op(behind, {aten.cat.default}):
            behind = behind.all_input_nodes[0]
        operands = [n for n in behind.all_input_nodes if n in dependent and _is_floating(n)]
        if is_op(behind, {aten.masked_fill.Scalar, aten.masked_fill.Tensor}):
            operands = operands[:1]
        if not is_op(behind, BIASED) or len(operands) != 1:
            return source, reader
        source, reader = operands[0], behind


BIASED = {
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.where.self,
    aten.where.ScalarOther,
    aten.masked_fill.Scalar,
    aten.masked_fill.Tensor,
}
"""What adds a bias or a mask."""


def _residual(node: fx.Node, dependent: set[fx.Node]) -> list[fx.Node]:
    """Return the operands of a residual sum: of two tensors, neither attention's scores nor one tensor's own parts."""
    operands = [n for n in node.all_input_nodes if n in dependent and _is_floating(n)]
    if not is_op(node, ADD) or len(operands) != 2 or leads_to(node, SOFTMAX, lambda n: is_op(n, SCALE | MOVE)):
        return []
    return [] if _of_one_tensor(operands, dependent) else operands


def _of_one_tensor(operands: list[fx.Node], dependent: set[fx.Node]) -> bool:
    """Tell whether elementwise operations and moves alone make all of them from one tensor (rotary embeddings)."""
    ahead, sources, seen = list(operands), set[fx.Node](), set[fx.Node]()
    for _ in range(FURTHEST):
        if not ahead:
            return len(sources) == 1
        node = ahead.pop()
        if node in seen:
            continue
        seen.add(node)
        if is_op(node, ELEMENTWISE | REARRANGED) or is_move(node):
            ahead.extend(n for n in node.all_input_nodes if n in dependent)
        else:
            sources.add(node)
    return False


def _is_floating(node: fx.Node) -> bool:
    fake = value(node)
    return isinstance(fake, torch.Tensor) and fake.is_floating_point()
