"""Deepen additive masks, so that no probability is left of what they hide."""

from torch import fx, nn

from vitq.graph.edit import replace_tensor
from vitq.graph.ops import ADD, SOFTMAX, attribute, is_move, is_op

SUBNORMAL, HIDDEN = -87.0, -200.0
"""exp(-87) is about the smallest normal float32; exp(-200) is zero."""


def deepen_masks(module: fx.GraphModule) -> None:
    """Set what constants add to a softmax's input from [-200, -87] to -200, in place.

    exp(-100), what Swin's mask leaves of a pair that it hides, is a subnormal float32, and CPUs multiply those several
    times slower. No probability changes by more than 1e-30 where the scores lie within 18 of each other. Constants
    have any shape; one that hides a whole row (its last dimension), is a parameter, or is also read elsewhere stays as
    it is. Source: vitq, measured in docs/research-notes.md.
    """
    readers: dict[str, list[fx.Node]] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            readers.setdefault(str(node.target), []).append(node)
    for path, nodes in readers.items():
        constant = attribute(module, path)
        if isinstance(constant, nn.Parameter) or not constant.is_floating_point():
            continue
        hides = (constant >= HIDDEN) & (constant <= SUBNORMAL)
        deep = bool(hides.any()) and not bool(hides.all(-1).any())
        if deep and all(_only_added_to_scores(node) for node in nodes):
            replace_tensor(module, path, constant.masked_fill(hides, HIDDEN))


def _only_added_to_scores(node: fx.Node) -> bool:
    """Tell whether sums and moves take ``node`` to softmaxes and nowhere else."""
    return all(
        is_op(user, SOFTMAX) or ((is_op(user, ADD) or is_move(user)) and _only_added_to_scores(user))
        for user in node.users
    )
