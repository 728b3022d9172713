"""Where a tensor holds the channels of a stream, and how that changes along operations that are linear in them."""

from dataclasses import dataclass

import torch
from torch import fx

from vitq.errors import GraphError
from vitq.graph.ops import aten, is_op, value
from vitq.graph.queries.numbers import carries, moved, numbers, tensor_inputs

AVERAGE = {aten.mean.dim, aten.adaptive_avg_pool2d.default, aten.avg_pool2d.default}
"""Operations that treat all channels alike; numbers tell whether they do (a mean over channels does not)."""


@dataclass(frozen=True)
class Frame:
    """A tensor holds the channels along ``axis``, counted from the end, ``blocks`` times one after the other."""

    axis: int
    blocks: int


def linear_in_channels(node: fx.Node) -> bool:
    """Tell whether ``node`` moves or averages values, quantizes them, or multiplies all of them by one number."""
    return carries(node) or is_op(node, AVERAGE)


def after(node: fx.Node, frame: Frame, channels: int) -> tuple[Frame, bool]:
    """Return where the result of ``node`` holds the channels and whether zeros are among them.

    All tensors that it reads hold them along the same axis. Raises GraphError where they arrive mixed or in part.
    """
    found = _send(node, frame.axis, channels)
    if found is None:
        raise GraphError(f"'{node.name}' moves channels, or joins them with others")
    return found


def before(node: fx.Node, frame: Frame, channels: int) -> dict[fx.Node, Frame]:
    """Return where the tensors that ``node`` reads hold the channels, given where its result does."""
    sources = tensor_inputs(node)
    most = max((value(source).ndim for source in sources), default=0)
    for axis in sorted(range(-most, 0), key=lambda axis: axis != frame.axis):
        found = _send(node, axis, channels)
        if found is not None and found[0] == frame:
            return {source: Frame(axis, int(value(source).shape[axis]) // channels) for source in sources}
    raise GraphError(f"'{node.name}' moves channels, or joins them with others")


def _send(node: fx.Node, axis: int, channels: int) -> tuple[Frame, bool] | None:
    """Send channel numbers through ``node`` and look at what arrives."""
    sources = tensor_inputs(node)
    for source in sources:
        shape = value(source).shape
        if len(shape) < -axis or not isinstance(shape[axis], int) or shape[axis] % channels:
            return None
    arrived = moved(node, {source: numbers(source, axis, channels) for source in sources})
    for there in range(-1, -arrived.ndim - 1, -1):
        if arrived.shape[there] % channels == 0:
            blocks = arrived.shape[there] // channels
            along = torch.arange(1, channels + 1, dtype=arrived.dtype).repeat(blocks)
            right = arrived == along.reshape(-1, *[1] * (-there - 1))
            if bool((right | (arrived == 0)).all()) and bool(right.any()):
                return Frame(there, blocks), not bool(right.all())
    return None
