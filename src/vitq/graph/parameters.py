"""The parameters of an operation, read behind their quantizers."""

import torch
from torch import fx

from vitq.errors import GraphError
from vitq.graph.edit import finish, insert_constant
from vitq.graph.graph import Graph


def parameter_node(owner: fx.Node, place: int) -> fx.Node | None:
    """Return the node of the parameter at ``owner.args[place]``, behind its quantizer; None if absent."""
    node = owner.args[place] if len(owner.args) > place else None
    return behind_quantizer(node) if isinstance(node, fx.Node) else None


def behind_quantizer(node: fx.Node) -> fx.Node:
    """Return the tensor that a quantizer reads; any other node is returned as it is."""
    return node.all_input_nodes[0] if node.op == "call_module" else node


def parameter(graph: Graph, owner: fx.Node, place: int, default: torch.Tensor) -> torch.Tensor:
    """Return the tensor of the parameter at ``owner.args[place]``; create it with ``default`` if absent."""
    node = parameter_node(owner, place)
    if node is not None:
        return graph.parameter(node.name)[1]
    module = graph.module
    first = next(iter(module.graph.nodes))
    name = f"{owner.name}_created_{place}"
    created = insert_constant(module, name, default.clone(), before=first, parameter=True)
    args = [*owner.args, *[None] * (place + 1 - len(owner.args))]
    args[place] = created
    owner.args = tuple(args)
    finish(module)
    return graph.parameter(created.name)[1]


def require_own(graph: Graph, owner: fx.Node, place: int) -> None:
    """Raise GraphError where the parameter at ``owner.args[place]`` serves another operation too."""
    source = parameter_node(owner, place)
    if source is None:
        return
    if source.op != "get_attr":
        raise GraphError(f"a parameter of '{owner.name}' is computed, not stored")
    if any(reader is not owner for reader in readers_of(graph, str(source.target))):
        raise GraphError(f"'{source.target}' is shared with another operation")


def readers_of(graph: Graph, path: str) -> list[fx.Node]:
    """Return the operations that read the parameter at ``path``, through its quantizer or not."""
    same = [node for node in graph.module.graph.nodes if node.op == "get_attr" and node.target == path]
    direct = [user for node in same for user in node.users]
    return [reader for user in direct for reader in (user.users if user.op == "call_module" else (user,))]
