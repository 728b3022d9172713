"""Sites: the tensors of a graph that may be quantized, with stable readable names and roles."""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from torch import fx

from vitq.graph.fold import depends_on_input
from vitq.graph.ops import (
    ACTIVATION,
    CONV,
    LINEAR,
    MATMUL,
    MOVE,
    NORM,
    SCALE,
    SOFTMAX,
    constant_factor,
    first_input,
    is_op,
    is_written_activation,
    leads_to,
    module_path,
    origin,
)


class Role(StrEnum):
    """What a site carries, as far as the graph knows."""

    WEIGHT = "weight"
    IMAGE = "image"
    POST_NORM = "post_norm"
    POST_ACTIVATION = "post_activation"
    QUERY = "query"
    KEY = "key"
    VALUE = "value"
    PROBABILITIES = "probabilities"
    OTHER = "other"


@dataclass(frozen=True)
class Site:
    """One tensor that may be quantized: the node that holds it, the operations that consume it quantized."""

    name: str
    node: str
    role: Role
    consumers: tuple[str, ...]

    @property
    def is_weight(self) -> bool:
        """Whether the tensor is a parameter."""
        return self.role is Role.WEIGHT


def find_sites(graph: fx.Graph) -> dict[str, Site]:
    """Return every operand of a linear, a convolution or an activation-activation matmul, by name, in order.

    A weight that feeds ``blocks.0.mlp.fc1`` is ``blocks.0.mlp.fc1/weight``, its input ``…/input``; the
    operands of attention are ``blocks.0.attn/query``, ``/key``, ``/probabilities``, ``/value``. A tensor with
    several quantized consumers is one site, named after the first.
    """
    dependent = depends_on_input(graph)
    operands: dict[fx.Node, tuple[str, Role]] = {}
    consumers: dict[fx.Node, list[str]] = {}
    seen: Counter[str] = Counter()
    for op in graph.nodes:
        if op not in dependent or not is_op(op, LINEAR | CONV | MATMUL):
            continue
        for node, name, role in _operands(op, dependent):
            if node not in operands:
                seen[name] += 1
                operands[node] = (name if seen[name] == 1 else f"{name}.{seen[name]}", role)
            consumers.setdefault(node, []).append(op.name)
    return {name: Site(name, node.name, role, tuple(consumers[node])) for node, (name, role) in operands.items()}


def layer_name(op: fx.Node) -> str:
    """Return the readable name of a linear or convolution: the path of its weight, else of its module."""
    weight = op.args[1]
    if isinstance(weight, fx.Node) and weight.op == "get_attr" and "." in str(weight.target):
        return str(weight.target).rpartition(".")[0]
    return module_path(op) or op.name


def _operands(op: fx.Node, dependent: set[fx.Node]) -> list[tuple[fx.Node, str, Role]]:
    first, second = op.args[0], op.args[1]
    assert isinstance(first, fx.Node) and isinstance(second, fx.Node)
    if not is_op(op, MATMUL):
        name = layer_name(op)
        weight = [(second, f"{name}/weight", Role.WEIGHT)] if second not in dependent else []
        return [(first, f"{name}/input", _role(first)), *weight]
    name = module_path(op) or op.name
    if first not in dependent:
        return [(second, f"{name}/input", _role(second)), (first, f"{name}/weight", Role.WEIGHT)]
    if second not in dependent:
        return [(first, f"{name}/input", _role(first)), (second, f"{name}/weight", Role.WEIGHT)]
    if is_op(origin(first), SOFTMAX):
        return [(first, f"{name}/probabilities", Role.PROBABILITIES), (second, f"{name}/value", Role.VALUE)]
    if leads_to(op, SOFTMAX, lambda n: is_op(n, SCALE | MOVE)):
        return [(first, f"{name}/query", Role.QUERY), (second, f"{name}/key", Role.KEY)]
    return [(first, f"{name}/left", _role(first)), (second, f"{name}/right", _role(second))]


def _role(node: fx.Node) -> Role:
    source = origin(node)
    while constant_factor(source):
        source = origin(first_input(source))
    if source.op == "placeholder":
        return Role.IMAGE
    for targets, role in (
        (NORM, Role.POST_NORM),
        (ACTIVATION, Role.POST_ACTIVATION),
        (SOFTMAX, Role.PROBABILITIES),
    ):
        if is_op(source, targets):
            return role
    return Role.POST_ACTIVATION if is_written_activation(source) else Role.OTHER
