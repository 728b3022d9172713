"""Which operations of a graph draw random numbers that its output depends on."""

from typing import Any

import torch
from torch import fx

SWITCHES = ("train", "training")
SHARES = ("p", "dropout_p")
"""Names of arguments: without training, or with a share of 0, a dropout changes nothing."""


def random_nodes(graph: fx.Graph) -> list[fx.Node]:
    """Return the nodes that draw numbers and are read on the way to the output, by the tags of torch's operators."""
    needed: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or node in needed:
            needed.update(node.all_input_nodes)
    return [node for node in graph.nodes if node in needed and _draws(node)]


def _draws(node: fx.Node) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    arguments = target._schema.arguments
    given: dict[str, Any] = {a.name: a.default_value for a in arguments if a.has_default_value()}
    given |= dict(zip((a.name for a in arguments), node.args, strict=False)) | dict(node.kwargs)
    switched_off = any(given.get(name) is False for name in SWITCHES)
    return not switched_off and not any(given.get(name) == 0 for name in SHARES)
