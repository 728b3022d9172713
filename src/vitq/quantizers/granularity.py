"""From a granularity to the axis that has its own parameters, and to the shapes that follow from it.

An axis is 0 for weights (output channels) and negative for activations, whatever their batch dimensions:
x_BTC: channel -1, token -2; x_BHTD: head -3; x_BCHW: channel -3. None: one set of parameters for the tensor.
"""

import math
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
    if granularity not in axes:
        raise RecipeError(f"activations have no '{granularity}' granularity; choose tensor, channel, head or token")
    return axes[granularity]


def weight_axis(granularity: Granularity) -> int | None:
    """Return the axis of a weight: 0 per channel or group, None per tensor; RecipeError for head and token."""
    if granularity == Granularity.TENSOR:
        return None
    if granularity == Granularity.CHANNEL or granularity.size:
        return 0
    raise RecipeError(f"weights have no '{granularity}' granularity; choose channel, tensor or group(32)")


def group_shape(x_shape: Sequence[int], size: int) -> tuple[int, ...]:
    """Return the shape of one parameter for each ``size`` inputs of an output: (O, I / size, 1).

    Inputs are all that an output reads, a convolution's windows too, in the order of the weight's memory.
    """
    inputs = math.prod(x_shape[1:])
    if inputs % size:
        raise RecipeError(f"groups of {size} do not divide {inputs} inputs; choose a divisor of {inputs}")
    return (x_shape[0], inputs // size, 1)


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
