"""Find the layer norm behind a site and every linear that reads it, and reach their parameters."""

from dataclasses import dataclass

import torch
from torch import fx, nn

from vitq.errors import GraphError
from vitq.graph import Graph, Site
from vitq.graph.ops import LINEAR, aten, is_move, is_op, is_tensor, origin, value


@dataclass(frozen=True)
class NormReaders:
    """A layer norm over the last axis, the site that carries its output, the linears that read it there."""

    norm: fx.Node
    site: Site
    linears: tuple[fx.Node, ...]
    channels: int


def norm_readers(graph: Graph, site: Site) -> NormReaders:
    """Return the norm whose output ``site`` carries and the linears that read it.

    Raises GraphError, saying why, unless the norm is a layer norm over one axis, only those linears read it,
    all that stands between keeps channel c at channel c and adds no value of its own (no padding), and no
    parameter is shared.
    """
    nodes = {node.name: node for node in graph.module.graph.nodes}
    norm = origin(nodes[site.node])
    if not is_op(norm, {aten.layer_norm.default}) or len(norm.args[1]) != 1:  # type: ignore[arg-type]
        raise GraphError(f"'{norm.name}' is no layer norm over one axis")
    linears = tuple(nodes[consumer] for consumer in site.consumers)
    for linear in linears:
        if not is_op(linear, LINEAR):
            raise GraphError(f"'{linear.name}', which reads it, is no linear layer")
    stranger = _other_reader(norm, set(linears))
    if stranger is not None:
        raise GraphError(f"'{stranger.name}' reads '{norm.name}' too")
    channels = int(value(norm).shape[-1])
    if not _keeps_channels(graph, norm, site.node, channels):
        raise GraphError(f"what stands between '{norm.name}' and '{site.node}' pads it or moves its channels")
    for owner, places in ((norm, (2, 3)), *((linear, (1, 2)) for linear in linears)):
        for place in places:
            require_own(graph, owner, place)
    return NormReaders(norm, site, linears, channels)


def _other_reader(norm: fx.Node, linears: set[fx.Node]) -> fx.Node | None:
    """Return a node that reads the norm's output, through moves and quantizers, and is not in ``linears``."""
    stack = [norm]
    while stack:
        for user in stack.pop().users:
            if user.op == "call_module" or is_move(user):
                stack.append(user)
            elif user not in linears and (is_tensor(user) or user.op == "output"):
                return user
    return None


@torch.no_grad()
def _keeps_channels(graph: Graph, norm: fx.Node, end: str, channels: int) -> bool:
    """Send channel numbers, from one, from the norm to ``end`` and look at what arrives."""
    if norm.name == end:
        return True
    shape = [size if isinstance(size, int) else None for size in value(norm).shape]
    sizes = _example_sizes(graph, norm) if None in shape else [s for s in shape if s is not None]
    numbers_C = torch.arange(1, channels + 1, dtype=torch.float32)
    arrived = graph.segment(norm.name, end, floating=True)(numbers_C.expand(sizes).clone())
    return arrived.shape[-1] == channels and bool((arrived == numbers_C).all())


def _example_sizes(graph: Graph, node: fx.Node) -> list[int]:
    """Return the shape of ``node`` for a batch of two images."""
    entry = next(n for n in graph.module.graph.nodes if n.op == "placeholder")
    batch = value(entry).shape[0].node.expr
    return [s if isinstance(s, int) else int(s.node.expr.subs({batch: 2})) for s in value(node).shape]


def require_own(graph: Graph, owner: fx.Node, place: int) -> None:
    """Raise GraphError where the parameter at ``owner.args[place]`` serves another operation too."""
    source = parameter_node(owner, place)
    if source is None:
        return
    if source.op != "get_attr":
        raise GraphError(f"a parameter of '{owner.name}' is computed, not stored")
    same = [n for n in graph.module.graph.nodes if n.op == "get_attr" and n.target == source.target]
    direct = [user for node in same for user in node.users]
    readers = [r for user in direct for r in (user.users if user.op == "call_module" else (user,))]
    if any(reader is not owner for reader in readers):
        raise GraphError(f"'{source.target}' is shared with another operation")


def parameter_node(owner: fx.Node, place: int) -> fx.Node | None:
    """Return the node of the parameter at ``owner.args[place]``, behind its quantizer; None if absent."""
    node = owner.args[place] if len(owner.args) > place else None
    if isinstance(node, fx.Node) and node.op == "call_module":
        node = node.args[0]
    return node if isinstance(node, fx.Node) else None


def parameter(graph: Graph, owner: fx.Node, place: int, default: torch.Tensor) -> torch.Tensor:
    """Return the tensor of the parameter at ``owner.args[place]``; create it with ``default`` if absent."""
    node = parameter_node(owner, place)
    if node is not None:
        return graph.parameter(node.name)[1]
    module = graph.module
    name = f"{owner.name}_created_{place}"
    module.register_parameter(name, nn.Parameter(default.clone(), requires_grad=False))
    first = next(iter(module.graph.nodes))
    with module.graph.inserting_before(first):
        created = module.graph.create_node("get_attr", name)
    with value(owner).fake_mode:
        created.meta["val"] = torch.empty(default.shape, dtype=default.dtype, device=value(owner).device)
    args = [*owner.args, *[None] * (place + 1 - len(owner.args))]
    args[place] = created
    owner.args = tuple(args)
    module.graph.lint()
    module.recompile()
    return graph.parameter(created.name)[1]
