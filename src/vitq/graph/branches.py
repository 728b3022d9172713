"""Branches: what leads to an output and to nothing else stands right behind what it follows from.

A model may compute a head on an early block last of all. That block's tensor would then be alive, and no cut be found,
all the way.
"""

from collections.abc import Iterable

from torch import fx

from vitq.graph.outputs import returned


def trunk(graph: fx.Graph) -> set[fx.Node]:
    """Return what the output that most nodes lead to follows from, itself included: the chain that cuts lie on."""
    return max((_ancestors(node) for node in dict.fromkeys(returned(graph).values())), key=len)


def tie_branches(graph: fx.Graph) -> None:
    """Move each node that the trunk does not need to the first place where its inputs are known, in place.

    A graph of one output has no such nodes.
    """
    if len(set(returned(graph).values())) == 1:
        return
    stem, place, order = trunk(graph), dict[fx.Node, int](), list[tuple[int, bool, int, fx.Node]]()
    for number, node in enumerate(graph.nodes):
        if node.op == "output":
            continue
        place[node] = number if node in stem else max((place[n] for n in node.all_input_nodes), default=0)
        order.append((place[node], node not in stem, number, node))
    end = next(iter(graph.find_nodes(op="output")))
    for *_, node in sorted(order, key=lambda entry: entry[:3]):
        end.prepend(node)
    graph.lint()


def _ancestors(node: fx.Node) -> set[fx.Node]:
    found: set[fx.Node] = set()
    stack: list[Iterable[fx.Node]] = [(node,)]
    while stack:
        for one in stack.pop():
            if one not in found:
                found.add(one)
                stack.append(one.all_input_nodes)
    return found
