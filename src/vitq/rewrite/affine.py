"""Change what a norm gives, channel by channel, and let the layers behind it undo it.

For any ratio r and offset z per channel the norm gives (x - z) / r where it gave x:  γ ← γ / r,  β ← (β - z) / r, and
every layer that reads it takes  W ← W diag(r),  bias ← bias + W z  (the old W), so that the function stays.
"""

from collections.abc import Sequence

import torch

from vitq.graph import Graph
from vitq.graph.parameters import parameter, parameter_node
from vitq.graph.queries import AffineNorm, Consumer
from vitq.graph.queries.affine import Slot

SMALLEST_SCALE = 1e-6
"""Least scale, in parts of the norm's largest, by which a bias that stays at the norm is divided."""


@torch.no_grad()
def transform(graph: Graph, norm: AffineNorm, ratio_C: torch.Tensor, offset_C: torch.Tensor | None = None) -> None:
    """Let ``norm`` give (x - offset) / ratio, in float64 inside; without ``offset`` its result is only scaled.

    An offset needs a norm whose ``no_shift`` is empty.
    """
    assert offset_C is None or not norm.no_shift
    like = graph.parameter(norm.consumers[0].weight_node.name)[1]
    ones_C = torch.ones(norm.channels, dtype=like.dtype, device=like.device)
    ratio_C = ratio_C.to(like.device, torch.float64)
    gamma = parameter(graph, norm.scale.owner, norm.scale.place, ones_C)
    gamma.copy_(gamma.double() / ratio_C.reshape(gamma.shape))
    if norm.bias is not None and (offset_C is not None or stored(graph, norm.bias) is not None):
        beta = parameter(graph, norm.bias.owner, norm.bias.place, 0 * ones_C)
        offset = 0.0 if offset_C is None else offset_C.to(like.device, torch.float64).reshape(beta.shape)
        beta.copy_((beta.double() - offset) / ratio_C.reshape(beta.shape))
    absorb(graph, norm.consumers, ratio_C, offset_C)


@torch.no_grad()
def absorb(
    graph: Graph, consumers: Sequence[Consumer], ratio_C: torch.Tensor | None, offset_C: torch.Tensor | None
) -> None:
    """Let the layers undo that they get (x - offset) / ratio instead of x."""
    for consumer in consumers:
        weight = graph.parameter(consumer.weight_node.name)[1]
        if offset_C is not None:
            assert not consumer.no_shift, consumer.no_shift
            share = weight.double() * consumer.spread(offset_C.to(weight.device, torch.float64))
            bias_O = parameter(graph, consumer.op, 2, weight.new_zeros(len(weight)))
            bias_O.copy_(bias_O.double() + share.flatten(1).sum(1))
        if ratio_C is not None:
            weight.copy_(weight.double() * consumer.spread(ratio_C.to(weight.device, torch.float64)))


def stored(graph: Graph, slot: Slot | None) -> torch.Tensor | None:
    """Return the tensor that a norm has at ``slot``, None where it does without."""
    node = None if slot is None else parameter_node(slot.owner, slot.place)
    return None if node is None else graph.parameter(node.name)[1]
