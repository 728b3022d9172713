"""Cuts: the places of a graph where exactly one activation tensor is alive."""

from torch import fx

from vitq.graph.fold import depends_on_image
from vitq.graph.ops import is_size, is_tensor
from vitq.graph.outputs import returned


def find_cuts(graph: fx.Graph) -> tuple[str, ...]:
    """Return the names of the cut nodes in execution order, the model's input first, its output last.

    A node is a cut when it is the only image-dependent tensor that a later node still uses; sizes,
    parameters, constants and masks made from sizes do not count, and a node with a tuple value is no cut. That a
    tensor is returned does not keep it alive: what is computed last is the last cut, and other outputs, which lie on
    the chain or beside it, follow from the cut before them. Source: vitq (DESIGN section 1).
    """
    nodes = list(graph.nodes)
    position = {node: i for i, node in enumerate(nodes)}
    dependent = depends_on_image(graph)
    outputs = set(returned(graph).values())
    last_use = {
        n: max((position[u] for u in n.users if not is_size(u) and u.op != "output"), default=-1) for n in nodes
    }
    ending: dict[int, list[fx.Node]] = {}
    for node, last in last_use.items():
        ending.setdefault(last, []).append(node)
    cuts: list[str] = []
    alive: set[fx.Node] = set()
    for i, node in enumerate(nodes):
        if node.op == "output":
            break
        alive.difference_update(ending.get(i, ()))
        if node in dependent and last_use[node] > i:
            alive.add(node)
        if (alive == {node} or (not alive and node in outputs)) and is_tensor(node):
            cuts.append(node.name)
    return tuple(cuts)
