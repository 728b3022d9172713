"""Convolutions of one and two dimensions, also transposed, as products: a matrix of patches times one of weights.

A transposed convolution is a plain one of its input, spread with zeros between the values, with the kernel mirrored.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from vitq.graph.ops import TRANSPOSED, aten, is_transposed, value


@dataclass(frozen=True)
class Convolution:
    """The geometry of a convolution: each tuple has a number for the height (1 where there is none) and the width."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    before: tuple[int, int]
    """Zeros above and to the left; a negative number crops."""
    after: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    transposed: bool

    def weight_matrix(self, weight: torch.Tensor) -> torch.Tensor:
        """Return w_OI, with I input channels (of one group) times places of the kernel."""
        if not self.transposed:
            return weight.flatten(1)
        mirrored = weight.flip(list(range(2, weight.ndim))).unflatten(0, (self.groups, -1))
        w_OI: torch.Tensor = mirrored.transpose(1, 2).flatten(0, 1).flatten(1)
        return w_OI

    def patches(self, x: torch.Tensor) -> torch.Tensor:
        """Return x_BPI, the values that meet the weights at each of P places: x_BCHW or x_BCW."""
        x_BCHW = x.unsqueeze(2) if x.ndim == 3 else x
        stride = self.stride
        if self.transposed:
            x_BCHW, stride = _spread(x_BCHW, stride), (1, 1)
        (top, left), (bottom, right) = self.before, self.after
        x_BCHW = functional.pad(x_BCHW, (left, right, top, bottom))
        return functional.unfold(x_BCHW, self.kernel, self.dilation, 0, stride).transpose(1, 2)

    def sides(self, x: torch.Tensor) -> list[int]:
        """Return how many places there are along each spatial axis of x_BCHW or x_BCW: height and width, or width."""
        given = x.shape[2:] if x.ndim == 4 else (1, *x.shape[2:])
        spans = zip(given, self.kernel, self.stride, self.before, self.after, self.dilation, strict=True)
        found = []
        for length, kernel, stride, before, after, dilation in spans:
            spread, step = ((length - 1) * stride + 1, 1) if self.transposed else (length, stride)
            found.append((spread + before + after - dilation * (kernel - 1) - 1) // step + 1)
        return found[4 - x.ndim :]


def convolution(node: fx.Node) -> Convolution | None:
    """Return the geometry of ``node``; None unless it is a convolution of a batch, of one or two dimensions."""
    if node.target not in _ARGUMENTS:
        return None
    x, weight = node.args[:2]
    assert isinstance(x, fx.Node) and isinstance(weight, fx.Node)
    sizes = tuple(int(size) for size in value(weight).shape[2:])
    if value(x).ndim != len(sizes) + 2 or len(sizes) not in (1, 2):
        return None
    names = _ARGUMENTS[node.target]
    given = _DEFAULTS | dict(zip(names, node.args[3:], strict=False)) | dict(node.kwargs)
    kernel, stride, dilation = (_pair(g, len(sizes), 1) for g in (sizes, given["stride"], given["dilation"]))
    reach = (dilation[0] * (kernel[0] - 1), dilation[1] * (kernel[1] - 1))
    transposed = is_transposed(node)
    if isinstance(given["padding"], str):
        total = reach if given["padding"] == "same" else (0, 0)
        before = (total[0] // 2, total[1] // 2)
        after = (total[0] - before[0], total[1] - before[1])
    else:
        before = after = _pair(given["padding"], len(sizes), 0)
    if transposed:
        more = _pair(given["output_padding"], len(sizes), 0)
        before = (reach[0] - before[0], reach[1] - before[1])
        after = (before[0] + more[0], before[1] + more[1])
    return Convolution(kernel, stride, before, after, dilation, int(given["groups"]), transposed)


def _spread(x_BCHW: torch.Tensor, stride: tuple[int, int]) -> torch.Tensor:
    """Put stride - 1 zeros between the values."""
    batch, channels, height, width = x_BCHW.shape
    spread = x_BCHW.new_zeros(batch, channels, (height - 1) * stride[0] + 1, (width - 1) * stride[1] + 1)
    spread[:, :, :: stride[0], :: stride[1]] = x_BCHW
    return spread


def _pair(given: Any, dimensions: int, none: int) -> tuple[int, int]:
    """Return a number for height and width, ``none`` for a height that is not there."""
    numbers = [int(g) for g in (given if isinstance(given, list | tuple) else [given])]
    numbers = numbers * dimensions if len(numbers) == 1 else numbers
    return (numbers[0], numbers[1]) if dimensions == 2 else (none, numbers[0])


_PLAIN = ("stride", "padding", "dilation", "groups")
_DEFAULTS: dict[str, Any] = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1}
_ARGUMENTS: dict[Any, tuple[str, ...]] = {
    **dict.fromkeys((aten.conv1d.default, aten.conv1d.padding, aten.conv2d.default, aten.conv2d.padding), _PLAIN),
    **dict.fromkeys(TRANSPOSED, ("stride", "padding", "output_padding", "groups", "dilation")),
    aten.convolution.default: ("stride", "padding", "dilation", "transposed", "output_padding", "groups"),
}
"""What follows input, weight and bias."""
