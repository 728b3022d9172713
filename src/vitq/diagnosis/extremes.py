"""Outlier tokens and channels behind every unit: how extreme they are, and which they are."""

from dataclasses import dataclass

import torch

from vitq.activations import forward_all
from vitq.graph import Graph
from vitq.reconstruct.slicing.outliers import channel_axis, share_of_energy

FAR = 4.0
"""Times the median token's length from which on a token is an outlier."""


@dataclass(frozen=True)
class Extreme:
    """What is extreme at the end of one unit.

    ``share``: part of the energy in values further than six deviations from the mean. ``channel`` is the one of the
    largest magnitude, ``channel_ratio`` that over the median channel's; ``token`` is the longest, counted from 0,
    ``token_ratio`` its length over the median token's, ``tokens`` the share of tokens that are ``FAR`` times as long.
    """

    name: str
    share: float
    channel: int
    channel_ratio: float
    token: int
    token_ratio: float
    tokens: float


@torch.no_grad()
def extremes(graph: Graph, images_NCHW: torch.Tensor, device: torch.device) -> tuple[Extreme, ...]:
    """Return what is extreme behind every unit of a model in floating point. Source: vitq."""
    nodes = {node.name: node for node in graph.module.graph.nodes}
    x, found = images_NCHW, list[Extreme]()
    for span in graph.spans("unit"):
        x = forward_all(graph.segment(span.start, span.end), x, device)
        found.append(extreme(span.name, x.movedim(channel_axis(nodes[span.end]), -1)))
    return tuple(found)


def extreme(name: str, x_NTC: torch.Tensor) -> Extreme:
    """Return what is extreme in a tensor (N, ..., C); what lies between are its tokens."""
    largest_C = x_NTC.abs().flatten(0, -2).amax(0)
    length_NT = x_NTC.float().norm(dim=-1).reshape(len(x_NTC), -1)
    ratio_NT = length_NT / length_NT.median(1, keepdim=True).values.clamp(min=1e-12)
    ratio_T = ratio_NT.mean(0)
    return Extreme(
        name=name,
        share=share_of_energy(x_NTC),
        channel=int(largest_C.argmax()),
        channel_ratio=float(largest_C.max() / largest_C.median().clamp(min=1e-12)),
        token=int(ratio_T.argmax()),
        token_ratio=float(ratio_NT.amax(1).mean()),
        tokens=float((ratio_NT > FAR).double().mean()),
    )
