"""MLPs: two linears with an activation function between them that nobody else sees."""

from dataclasses import dataclass

from torch import fx

from vitq.errors import GraphError
from vitq.graph.graph import Graph
from vitq.graph.ops import ACTIVATION, ELEMENTWISE, GATE, IDENTITY, LINEAR, aten, is_op, written_out
from vitq.graph.parameters import require_own
from vitq.graph.sites import layer_name


@dataclass(frozen=True)
class Mlp:
    """``second`` of ``activation`` of ``first``; ``name`` is that of the first linear, ``hidden`` what it gives."""

    name: str
    first: fx.Node
    hidden: fx.Node
    activation: fx.Node
    second: fx.Node


def mlps(graph: Graph) -> tuple[tuple[Mlp, ...], dict[str, str]]:
    """Return every MLP of ``graph`` whose function is no ReLU, and by the second linear why another is none."""
    found, refused = list[Mlp](), dict[str, str]()
    for second in [node for node in graph.module.graph.nodes if is_op(node, LINEAR)]:
        activation = _behind_identities(second.args[0])
        hidden = _read_by(activation)
        if hidden is None or is_op(activation, {aten.relu.default}):
            continue
        try:
            found.append(_mlp(graph, hidden, activation, second))
        except GraphError as error:
            refused[layer_name(second)] = str(error)
    return tuple(found), refused


def _mlp(graph: Graph, hidden: fx.Node, activation: fx.Node, second: fx.Node) -> Mlp:
    first = _behind_identities(hidden)
    if not is_op(first, LINEAR):
        raise GraphError(f"'{activation.name}' reads '{first.name}', which is no linear layer")
    for node, reader in ((first, activation), (activation, second)):
        between = {node} | _identities_behind(node)
        other = next((user for n in between for user in n.users if user not in between | _function(node, reader)), None)
        if other is not None:
            raise GraphError(f"'{other.name}' reads '{node.name}' too")
    for node in (first, activation):
        if node.name in graph.compared:
            raise GraphError(f"'{node.name}' is where student and teacher are compared")
    for linear in (first, second):
        for place in (1, 2):
            require_own(graph, linear, place)
    return Mlp(layer_name(first), first, hidden, activation, second)


def _function(node: fx.Node, reader: fx.Node) -> set[fx.Node]:
    """Return the operations of an activation function that may read ``node``, or the layer ``reader`` alone."""
    found = written_out(reader, ELEMENTWISE | GATE, GATE) if not is_op(reader, LINEAR) else None
    return {reader} if found is None else {reader, *found[1]}


def _read_by(activation: object) -> fx.Node | None:
    """Return the tensor that an activation function takes; None where ``activation`` is not its last operation."""
    if not isinstance(activation, fx.Node):
        return None
    if is_op(activation, ACTIVATION):
        source = activation.args[0]
        return source if isinstance(source, fx.Node) else None
    found = written_out(activation, ELEMENTWISE | GATE, GATE)
    return None if found is None else found[0]


def _behind_identities(node: object) -> fx.Node:
    assert isinstance(node, fx.Node)
    while is_op(node, IDENTITY):
        node = node.all_input_nodes[0]
    return node


def _identities_behind(node: fx.Node) -> set[fx.Node]:
    found, stack = set[fx.Node](), [node]
    while stack:
        for user in stack.pop().users:
            if is_op(user, IDENTITY) and user not in found:
                found.add(user)
                stack.append(user)
    return found
