"""Products of int8 codes added in int32: a linear, a convolution, and the product of two activations."""

import torch
from torch import nn

from vitq.errors import ExportError
from vitq.quantizers import IntegerView, Quantizer

Pair = tuple[int, int]
"""Along height and width."""

OFFSET = 128
"""What turns uint8 codes into int8 ones."""
ROWS = 256
"""Rows at a time on a CPU: what is in between stays in its caches (docs/research-notes.md)."""


class IntegerLinear(nn.Module):
    """y = s_x s_w Σ (a - z_x) (w - z_w), the sum in integers: x_…I (floating point) to y_…O.

    ``quantizer`` gives the codes a; weights are codes w_OI of steps of ``weight``, with a scale and zero point per O.
    """

    def __init__(self, quantizer: Quantizer, codes_OI: torch.Tensor, weight: IntegerView) -> None:
        super().__init__()
        self.quantizer = quantizer
        zero_O = weight.zero_point.detach().flatten().to(torch.int32) - OFFSET
        outputs, inputs = codes_OI.shape
        w_IO = (codes_OI ^ OFFSET).view(torch.int8).T.contiguous()
        self.register_buffer("w_IO", w_IO)
        self.register_buffer("scale_O", weight.scale.detach().flatten().expand(outputs).clone())
        self.register_buffer("zero_O", zero_O.expand(outputs).clone())
        self.register_buffer("sum_O", w_IO.sum(0, dtype=torch.int32) - inputs * self.zero_O)
        self.has_zeros = bool(zero_O.any())

    w_IO: torch.Tensor
    scale_O: torch.Tensor
    zero_O: torch.Tensor
    sum_O: torch.Tensor

    def forward(self, x: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
        """Return the product plus the bias in float32."""
        x_TI = x.reshape(-1, x.shape[-1])
        y_TO = x_TI.new_empty(len(x_TI), len(self.scale_O), dtype=torch.float32)
        rows = len(x_TI) if x.is_cuda else ROWS
        for part_TI, out_TO in zip(x_TI.split(rows), y_TO.split(rows), strict=True):
            self._multiply(part_TI, out_TO)
            if bias_O is not None:
                out_TO += bias_O
        return y_TO.reshape(*x.shape[:-1], -1)

    def _multiply(self, x_TI: torch.Tensor, y_TO: torch.Tensor) -> None:
        """Write the product into ``y_TO``."""
        view = view_of(self.quantizer)
        a_TI, zero = int8_codes(self.quantizer, view, x_TI)
        total_TO = int_mm(a_TI, self.w_IO)
        if self.has_zeros:
            total_TO.addcmul_(a_TI.sum(1, keepdim=True, dtype=torch.int32), self.zero_O, value=-1)
        total_TO -= zero * self.sum_O
        torch.mul(total_TO, view.scale * self.scale_O, out=y_TO)


class IntegerConvolution(nn.Module):
    """A convolution without groups as an ``IntegerLinear`` of its windows: x_BCHW (floating point) to y_BOHW.

    ``size``: height and width of the kernel; zeros around x have a code like any other value.
    """

    def __init__(self, linear: IntegerLinear, size: Pair, stride: Pair, padding: Pair, dilation: Pair) -> None:
        super().__init__()
        self.linear = linear
        self.size, self.stride, self.padding, self.dilation = size, stride, padding, dilation

    def forward(self, x_BCHW: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
        """Return the convolution plus the bias in float32."""
        windows_BIT = nn.functional.unfold(x_BCHW, self.size, self.dilation, self.padding, self.stride)
        y_BTO: torch.Tensor = self.linear(windows_BIT.transpose(1, 2), bias_O)
        spans = zip(x_BCHW.shape[2:], self.size, self.dilation, self.padding, self.stride, strict=True)
        sides = [(length + 2 * p - d * (k - 1) - 1) // s + 1 for length, k, d, p, s in spans]
        return y_BTO.transpose(1, 2).reshape(len(x_BCHW), -1, *sides)


class IntegerProduct(nn.Module):
    """y = s_a s_b Σ (a - z_a) (b - z_b), the sum in integers: a_…MK and b_…KN (floating point) to y_…MN.

    A scale is one number or one per head. ``torch._int_mm`` knows no batches, so heads and images come one by one.
    """

    def __init__(self, left: Quantizer, right: Quantizer) -> None:
        super().__init__()
        self.left, self.right = left, right

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Return the product in float32."""
        batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        left, right = view_of(self.left), view_of(self.right)
        (a, zero_a), (b, zero_b) = int8_codes(self.left, left, a), int8_codes(self.right, right, b)
        pairs = zip(a.expand(*batch, -1, -1).flatten(0, -3), b.expand(*batch, -1, -1).flatten(0, -3), strict=True)
        products = [int_mm(a_MK.contiguous(), b_KN.contiguous()) for a_MK, b_KN in pairs]
        total = torch.stack(products).reshape(*batch, a.shape[-2], b.shape[-1])
        total -= zero_b * a.sum(-1, keepdim=True, dtype=torch.int32)
        total -= zero_a * (b.sum(-2, keepdim=True, dtype=torch.int32) - a.shape[-1] * zero_b)
        return total * (left.scale * right.scale)


def int8_codes(quantizer: Quantizer, view: IntegerView, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int8 codes in whole steps of one scale, and their zero point."""
    codes = view.spread(quantizer.encode(x))
    return (codes ^ OFFSET).view(torch.int8), view.zero_point.to(torch.int32) - OFFSET  # highest bit flipped: 128 less


def view_of(quantizer: Quantizer) -> IntegerView:
    """Return a quantizer's integer view; ExportError where it has none."""
    view = quantizer.integer_view()
    if view is None:
        raise ExportError(f"site '{quantizer.site}': {quantizer.format} has no integer codes of one scale")
    return view


def int_mm(a_TI: torch.Tensor, w_IO: torch.Tensor) -> torch.Tensor:
    """Return the int32 product of int8 matrices; CUDA's kernel wants sizes that are multiples of 8, thus padding."""
    if not a_TI.is_cuda:
        return torch._int_mm(a_TI, w_IO)
    rows, inputs, outputs = len(a_TI), *w_IO.shape
    more = [-size % 8 for size in (rows, inputs, outputs)]
    more[0] += 24 if rows + more[0] <= 16 else 0
    a = nn.functional.pad(a_TI, (0, more[1], 0, more[0]))
    w = nn.functional.pad(w_IO, (0, more[2], 0, more[1]))
    return torch._int_mm(a, w)[:rows, :outputs]
