"""Sites that are calibrated together: the operands of one product, or of all layers that read one tensor."""

from dataclasses import dataclass

import torch
from torch import fx

from vitq.graph import Graph, Site
from vitq.graph.convolution import convolution
from vitq.graph.ops import CONV, LINEAR, MATMUL, is_op

MAX_ROWS = 1 << 14
"""Rows of a layer's input that an output search looks at."""


@dataclass(frozen=True)
class Group:
    """Activation sites ``inputs`` (one, or a matmul's two) and the ``weights`` that meet the first.

    ``layers`` are the operations, one per weight; a matmul of two activations has one and no weight. A tensor that
    no product reads has neither.
    """

    inputs: tuple[Site, ...]
    weights: tuple[Site, ...]
    layers: tuple[fx.Node, ...]

    @property
    def sites(self) -> tuple[Site, ...]:
        """All sites of the group, activations first."""
        return (*self.inputs, *self.weights)


def find_groups(graph: Graph) -> tuple[Group, ...]:
    """Return the groups of ``graph``; layers that read the same tensor are one group.

    A tensor that no product reads is a group alone, without an operation: nothing is there to search by its output.
    """
    consumed: dict[str, list[Site]] = {}
    alone = [site for site in graph.sites.values() if not site.of_product]
    for site in (site for site in graph.sites.values() if site.of_product):
        for consumer in site.consumers:
            consumed.setdefault(consumer, []).append(site)
    nodes = {node.name: node for node in graph.module.graph.nodes}
    groups: dict[tuple[str, ...], Group] = {}
    for name in (node.name for node in graph.module.graph.nodes if node.name in consumed):
        inputs = tuple(site for site in consumed[name] if not site.is_weight)
        weights = tuple(site for site in consumed[name] if site.is_weight)
        if len(inputs) == 2:
            inputs = tuple(sorted(inputs, key=lambda site: _operand(nodes[name], site)))
        key = tuple(site.name for site in inputs) if weights else (name,)
        known = groups.get(key, Group(inputs, (), ()))
        groups[key] = Group(inputs, (*known.weights, *weights), (*known.layers, nodes[name]))
    return (*groups.values(), *(Group((site,), (), ()) for site in alone))


def _operand(op: fx.Node, site: Site) -> int:
    """Return the argument place of ``site`` in ``op``, through its quantizer if it has one."""
    first = op.args[0]
    assert isinstance(first, fx.Node)
    source = first.args[0] if first.op == "call_module" else first
    return 0 if isinstance(source, fx.Node) and source.name == site.node else 1


def weight_matrix(layer: fx.Node, weight: torch.Tensor) -> torch.Tensor | None:
    """Return the weight of ``layer`` as w_OI, None where it is no plain product (grouped convolution)."""
    if is_op(layer, LINEAR):
        return weight
    if is_op(layer, CONV):
        geometry = convolution(layer)
        return None if geometry is None or geometry.groups != 1 else geometry.weight_matrix(weight)
    if is_op(layer, MATMUL) and weight.ndim == 2 and _is_weight(layer.args[1]):
        return weight.T
    return None


def input_matrix(layer: fx.Node, x: torch.Tensor) -> torch.Tensor:
    """Return what the rows of ``weight_matrix`` meet: x_NI, for a convolution its patches; thinned."""
    per_image = -(-MAX_ROWS // max(len(x), 1))
    return thin(input_rows(layer, x, per_image)[None], MAX_ROWS)[0]


def input_rows(layer: fx.Node, x: torch.Tensor, most_patches: int | None = None) -> torch.Tensor:
    """Return all rows that ``input_matrix`` thins, of an image's patches ``most_patches`` at most."""
    geometry = convolution(layer) if is_op(layer, CONV) else None
    if geometry is not None and geometry.groups == 1:
        x = geometry.patches(x)
        x = x if most_patches is None else thin(x, most_patches)
    return x.reshape(-1, x.shape[-1])


def thin(x_BNI: torch.Tensor, limit: int) -> torch.Tensor:
    """Keep every k-th row of the second axis so that at most ``limit`` remain."""
    return x_BNI[:, :: max(-(-x_BNI.shape[1] // limit), 1)]


def _is_weight(argument: object) -> bool:
    node = argument.args[0] if isinstance(argument, fx.Node) and argument.op == "call_module" else argument
    return isinstance(node, fx.Node) and node.op == "get_attr"
