"""Sites: the tensors of a graph that may be quantized, with stable readable names and roles."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

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
    is_move,
    is_op,
    is_tensor,
    is_written_activation,
    leads_to,
    module_path,
    origin,
)
from vitq.graph.readings import Reading, find_readings
from vitq.graph.role import Role

__all__ = ["Role", "Site", "find_sites", "layer_name"]

BESIDES = (Role.NORM_INPUT, Role.SOFTMAX_INPUT, Role.ACTIVATION_INPUT, Role.RESIDUAL)
"""Roles of what operations other than products read."""


@dataclass(frozen=True)
class Site:
    """One tensor that may be quantized: the node that holds it, the operations that consume it in its own role.

    ``others`` are operations that read it too, each in a role that a scope may leave in floating point.
    """

    name: str
    node: str
    role: Role
    consumers: tuple[str, ...]
    others: tuple[tuple[str, Role], ...] = ()

    @property
    def is_weight(self) -> bool:
        """Whether the tensor is a parameter."""
        return self.role is Role.WEIGHT

    @property
    def of_product(self) -> bool:
        """Whether a linear, a convolution or a matmul consumes the tensor."""
        return self.role not in BESIDES

    def readers(self, roles: Collection[Role]) -> tuple[str, ...]:
        """Return the operations that read the tensor in one of ``roles``."""
        own = self.consumers if self.role in roles else ()
        return (*own, *(name for name, role in self.others if role in roles))


def find_sites(graph: fx.Graph) -> dict[str, Site]:
    """Return every tensor that may be quantized, by name, in the order of its first consumers.

    They are the operands of linears, convolutions and matmuls, the inputs of norms, softmax and activation functions,
    and both operands of residual sums. A weight that feeds ``blocks.0.mlp.fc1`` is ``blocks.0.mlp.fc1/weight``, its
    input ``…/input``; the operands of attention are ``blocks.0.attn/query``, ``/key``, ``/probabilities``, ``/value``.
    A tensor with several consumers is one site. Its name and role are those of its first product, else of its first
    reader.
    """
    seen = Counter[str]()
    named = _products(graph, seen)
    place = {node.name: i for i, node in enumerate(graph.nodes)}
    found, others = find_readings(graph), dict[fx.Node, dict[str, Role]]()
    operations = _operations(graph)
    for reading in found:
        if reading.source not in named:
            named[reading.source] = _Named(_unique(_name(reading, operations), seen), reading.role, [])
        for reader in reading.readers:
            own = named[reading.source]
            if reading.role is own.role:
                own.consumers.append(reader.name)
            else:
                others.setdefault(reading.source, {})[reader.name] = reading.role
    sites = (
        Site(own.name, node.name, own.role, tuple(dict.fromkeys(own.consumers)), tuple(others.get(node, {}).items()))
        for node, own in named.items()
    )
    return {site.name: site for site in sorted(sites, key=lambda site: place[site.consumers[0]])}


@dataclass(frozen=True)
class _Named:
    name: str
    role: Role
    consumers: list[str]


def _products(graph: fx.Graph, seen: Counter[str]) -> dict[fx.Node, _Named]:
    """Return the operands of products in order."""
    dependent = depends_on_input(graph)
    found: dict[fx.Node, _Named] = {}
    for op in graph.nodes:
        if op not in dependent or not is_op(op, LINEAR | CONV | MATMUL):
            continue
        for node, name, role in _operands(op, dependent):
            if node not in found:
                found[node] = _Named(_unique(name, seen), role, [])
            found[node].consumers.append(op.name)
    return found


def _unique(name: str, seen: Counter[str]) -> str:
    seen[name] += 1
    return name if seen[name] == 1 else f"{name}.{seen[name]}"


def _operations(graph: fx.Graph) -> dict[str, set[fx.Node]]:
    """Return what each module computes itself, by its path; moves and stored factors count as nothing."""
    found: dict[str, set[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_function" and is_tensor(node) and not is_move(node) and not constant_factor(node):
            found.setdefault(module_path(node), set()).add(node)
    return found


def _name(reading: Reading, operations: Mapping[str, set[fx.Node]]) -> str:
    """Return ``…/output`` of a residual operand's maker, else ``…/input`` of a module, or ``…/<role>`` inside one."""
    if reading.role is Role.RESIDUAL:
        maker = origin(reading.source)
        path = layer_name(maker) if is_op(maker, LINEAR | CONV) else module_path(maker)
        return f"{path or maker.name}/output"
    path = module_path(reading.owner)
    if path and operations[path] <= reading.inside:
        return f"{path}/input"
    return f"{path or reading.owner.name}/{reading.role}"


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
