"""See a dense tensor in the order in which it lies in memory, so that elementwise work streams through it.

Attention operands are permuted views (x_BHTD stored as BTHD); in memory order they are contiguous again.
"""

import math
from dataclasses import dataclass

import torch


def memory_order(x: torch.Tensor) -> tuple[int, ...]:
    """Return the permutation of dimensions that makes a dense x contiguous, else the identity."""
    strides = x.stride()
    order = tuple(sorted(range(x.ndim), key=lambda dim: (-strides[dim], dim)))
    return order if x.permute(order).is_contiguous() else tuple(range(x.ndim))


@dataclass(frozen=True)
class Arrangement:
    """How tensors like x are viewed as 1 to 3 dimensions in memory order, with matching parameters.

    ``kind``: "flat" (N), "rows" (n, inner), "columns" (outer, n) or "middle" (outer, n, inner); n is the
    axis of the parameters; ``shape``, ``view``, ``parameters``: shapes of x, of its view, of scale.
    """

    kind: str
    order: tuple[int, ...]
    shape: tuple[int, ...]
    view: tuple[int, ...]
    parameters: tuple[int, ...]

    def arrange(self, x: torch.Tensor) -> torch.Tensor:
        """Return the detached view (a copy if x does not lie in this order)."""
        return _without_base(x.permute(self.order).reshape(self.view))

    def arrange_parameter(self, parameter: torch.Tensor) -> torch.Tensor:
        """Return a scale or zero point, detached, in the shape that broadcasts against the view."""
        return _without_base(parameter.reshape(self.parameters))

    def restore(self, x: torch.Tensor) -> torch.Tensor:
        """Return the tensor of ``shape`` that was viewed."""
        back = [self.order.index(dim) for dim in range(len(self.order))]
        return x.view([self.shape[dim] for dim in self.order]).permute(back)


def _without_base(x: torch.Tensor) -> torch.Tensor:
    """Return an alias that is not a view of another tensor, on whose shape the compiler would specialize."""
    return x.data


def arrangement(x: torch.Tensor, scale: torch.Tensor) -> Arrangement | None:
    """Return how to view x for parameters of one value or of shape (n, 1, ...), else None."""
    order, shape = memory_order(x), tuple(x.shape)
    if scale.numel() == 1:
        return Arrangement("flat", order, shape, (x.numel(),), ())
    axis = x.ndim - scale.ndim
    if axis < 0 or scale.numel() != scale.shape[0] or scale.shape[0] != shape[axis]:
        return None
    place = order.index(axis)
    outer = math.prod(shape[dim] for dim in order[:place])
    inner = math.prod(shape[dim] for dim in order[place + 1 :])
    n = shape[axis]
    if outer == 1:
        return Arrangement("rows", order, shape, (n, inner), (n, 1))
    if inner == 1:
        return Arrangement("columns", order, shape, (outer, n), (n,))
    return Arrangement("middle", order, shape, (outer, n, inner), (n, 1))
