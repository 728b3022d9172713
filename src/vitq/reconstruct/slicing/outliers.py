"""Outliers: how much of the energy at each cut lies in a few extreme values."""

from dataclasses import dataclass

import torch
from torch import fx

from vitq.activations import forward_all
from vitq.graph import Graph
from vitq.graph.ops import CONV, LINEAR, NORM, is_op


@dataclass(frozen=True)
class Outliers:
    """What is extreme at the end of one unit.

    ``share``: part of the squared sum in values further than κ standard deviations from the mean; ``ratio``: largest
    magnitude of the most extreme channel over that of the median channel.
    """

    name: str
    cut: str
    share: float
    ratio: float


def outlier_profile(
    graph: Graph, images_NCHW: torch.Tensor, device: torch.device, kappa: float = 6.0
) -> tuple[Outliers, ...]:
    """Return the outliers behind every unit of ``graph``, from the input to the output, on all images together.

    Source: OAS (ICML 2024) measures outliers at the boundaries of modules; its statistic is not at hand: the share of
    energy beyond κσ is vitq's choice, the ratio of channels is shown beside it.
    """
    profile: list[Outliers] = []
    nodes = {node.name: node for node in graph.module.graph.nodes}
    x = images_NCHW
    for span in graph.spans("unit"):
        x = forward_all(graph.segment(span.start, span.end), x, device)
        channels = channel_axis(nodes[span.end])
        profile.append(Outliers(span.name, span.end, share_of_energy(x, kappa), _ratio(x, channels)))
    return tuple(profile)


def share_of_energy(x: torch.Tensor, kappa: float = 6.0) -> float:
    """Return the part of the squared sum in values further than ``kappa`` standard deviations from the mean."""
    energy = x.square()
    extreme = (x - x.mean()).abs() > kappa * x.std()
    return float(energy[extreme].sum(dtype=torch.float64) / energy.sum(dtype=torch.float64).clamp(min=1e-12))


def _ratio(x: torch.Tensor, channels: int) -> float:
    largest_C = x.abs().movedim(channels, 0).flatten(1).amax(1)
    return float(largest_C.max() / largest_C.median().clamp(min=1e-12))


def channel_axis(node: fx.Node) -> int:
    """Return the axis of the channels in what ``node`` holds: the second before a convolution, else the last."""
    return 1 if _read_by_convolution(node) else -1


def _read_by_convolution(node: fx.Node) -> bool:
    """Tell whether the next operation that knows channels is a convolution, which has them second and not last."""
    ahead, seen = list(node.users), set[fx.Node]()
    while ahead:
        user = ahead.pop(0)
        if is_op(user, CONV):
            return True
        if is_op(user, LINEAR | NORM):
            return False
        if user not in seen:
            seen.add(user)
            ahead.extend(user.users)
    return False
