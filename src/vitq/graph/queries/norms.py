"""The consumers of a norm: the linears that read its output, and nobody else."""

from dataclasses import dataclass

from torch import fx

from vitq.errors import GraphError
from vitq.graph.edit import node_named
from vitq.graph.graph import Graph
from vitq.graph.ops import LINEAR, aten, is_move, is_op, is_tensor, origin, value
from vitq.graph.parameters import require_own
from vitq.graph.queries.numbers import arriving, numbers
from vitq.graph.sites import Site


@dataclass(frozen=True)
class NormConsumers:
    """A layer norm over the last axis, the site that carries its output, the linears that read it there."""

    norm: fx.Node
    site: Site
    linears: tuple[fx.Node, ...]
    channels: int


def norm_consumers(graph: Graph, site: Site) -> NormConsumers:
    """Return the norm whose output ``site`` carries and the linears that read it.

    Raises GraphError, saying why, unless the norm is a layer norm over one axis, only those linears read it,
    all that stands between keeps channel c at channel c and adds no value of its own (no padding), and no
    parameter is shared.
    """
    carrier = node_named(graph.module, site.node)
    norm = origin(carrier)
    if not is_op(norm, {aten.layer_norm.default}) or len(norm.args[1]) != 1:  # type: ignore[arg-type]
        raise GraphError(f"'{norm.name}' is no layer norm over one axis")
    linears = tuple(node_named(graph.module, consumer) for consumer in site.consumers)
    for linear in linears:
        if not is_op(linear, LINEAR):
            raise GraphError(f"'{linear.name}', which reads it, is no linear layer")
    other_consumer = _other_consumer(norm, set(linears))
    if other_consumer is not None:
        raise GraphError(f"'{other_consumer.name}' reads '{norm.name}' too")
    channels = int(value(norm).shape[-1])
    if not _keeps_channels(norm, carrier, channels):
        raise GraphError(f"what stands between '{norm.name}' and '{site.node}' pads it or moves its channels")
    for owner, places in ((norm, (2, 3)), *((linear, (1, 2)) for linear in linears)):
        for place in places:
            require_own(graph, owner, place)
    return NormConsumers(norm, site, linears, channels)


def _other_consumer(norm: fx.Node, linears: set[fx.Node]) -> fx.Node | None:
    """Return a node that reads the norm's output, through moves and quantizers, and is not in ``linears``."""
    stack = [norm]
    while stack:
        for user in stack.pop().users:
            if user.op == "call_module" or is_move(user):
                stack.append(user)
            elif user not in linears and (is_tensor(user) or user.op == "output"):
                return user
    return None


def _keeps_channels(norm: fx.Node, end: fx.Node, channels: int) -> bool:
    """Send channel numbers, from one, from the norm to ``end`` and look at what arrives."""
    sent = numbers(norm, -1, channels)
    try:
        arrived = arriving(end, norm, sent)
    except GraphError:
        return False
    return arrived.shape[-1] == channels and bool((arrived == sent.flatten()[:channels]).all())
