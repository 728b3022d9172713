"""What a file holds of a model whose scope goes beyond products: codes for products, floating point for the rest."""

from collections import Counter
from dataclasses import replace

from torch import fx

from vitq.artifact.artifact import Artifact
from vitq.graph import Graph
from vitq.graph.edit import finish, quantizer_target
from vitq.graph.ops import CONV, LINEAR, MATMUL, is_op


def products_only(artifact: Artifact) -> tuple[Artifact, str]:
    """Return the artifact that a file can hold, and what it leaves in floating point: "" where that is nothing.

    No runtime has integer kernels for norms, softmax, activation functions and sums, so a file would only imitate
    their rounding. Quantizers that products read too stay there, for the products alone.
    """
    if not any(_besides(node) for node in _calls(artifact.graph).values()):
        return artifact, ""
    graph, left = artifact.graph.clone(), Counter[str]()
    calls, unread = _calls(graph), list[str]()
    for name in list(graph.quantizers):
        node = calls[name]
        others = _besides(node)
        for user in others:
            user.replace_input_with(node, node.all_input_nodes[0])
        if others:
            left[str(graph.sites[name].role)] += 1
        if not node.users:
            unread.append(name)
    graph.remove(*unread)
    finish(graph.module)
    return replace(artifact, graph=graph), ", ".join(f"{count} of {role}" for role, count in left.items())


def note(left: str) -> str:
    """Say what the file leaves in floating point, and what its proof compares it with."""
    return (
        f"what norms, softmax, activation functions and sums read is in floating point in this file ({left}); "
        "its proof compares it with the model without these quantizers"
    )


def _calls(graph: Graph) -> dict[str, fx.Node]:
    """Return the node that calls each site's quantizer."""
    targets = {quantizer_target(name): name for name in graph.quantizers}
    nodes = graph.module.graph.find_nodes(op="call_module")
    return {targets[str(node.target)]: node for node in nodes if node.target in targets}


def _besides(node: fx.Node) -> list[fx.Node]:
    return [user for user in node.users if not is_op(user, LINEAR | CONV | MATMUL)]
