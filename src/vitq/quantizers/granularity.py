"""From a granularity to the axis that has its own parameters, and to the shapes that follow from it.

An axis is 0 for weights (output channels) and negative for activations, whatever their batch dimensions:
x_BTC: channel -1, token -2; x_BHTD: head -3; x_BCHW: channel -3. None: one set of parameters for the tensor.
"""

from collections.abc import Sequence

import torch

from vitq.errors import RecipeError
from vitq.quantizers.format import Granularity


def activation_axis(granularity: Granularity, *, channels_first: bool = False) -> int | None:
    """Return the axis of an activation: channel -1 (-3 for x_BCHW), token -2, head -3, tensor None."""
    axes = {
        Granularity.TENSOR: None,
        Granularity.CHANNEL: -3 if channels_first else -1,
        Granularity.HEAD: -3,
        Granularity.TOKEN: -2,
    }
    return axes[granularity]


def weight_axis(granularity: Granularity) -> int | None:
    """Return the axis of a weight: 0 per channel, None per tensor; RecipeError for head and token."""
    if granularity is Granularity.TENSOR:
        return None
    if granularity is Granularity.CHANNEL:
        return 0
    raise RecipeError(f"weights have no '{granularity}' granularity; choose channel or tensor")


def parameter_shape(x_shape: Sequence[int], axis: int | None) -> tuple[int, ...]:
    """Return the broadcast shape of scale and zero point: (), (C,), (T, 1), (H, 1, 1) or (O, 1)."""
    if axis is None:
        return ()
    position = axis % len(x_shape) if -len(x_shape) <= axis < len(x_shape) else None
    if position is None:
        raise RecipeError(f"axis {axis} does not exist in a tensor of shape {tuple(x_shape)}")
    return (x_shape[position], *(1 for _ in x_shape[position + 1 :]))


def reduce_dims(x: torch.Tensor, axis: int | None) -> tuple[int, ...]:
    """Return the dimensions that share parameters: all but ``axis``."""
    if axis is None:
        return tuple(range(x.ndim))
    return tuple(dim for dim in range(x.ndim) if dim != axis % x.ndim)
