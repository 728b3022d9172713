"""Products of int8 codes added in int32: a linear, a convolution, and the product of two activations.

Codes of more than 8 bits (twin ranges far apart, logarithms) are multiplied byte by byte; their sums have 64 bits.
"""

from collections.abc import Callable

import torch
from torch import nn

from vitq.errors import ExportError
from vitq.graph.convolution import Convolution
from vitq.quantizers import IntegerView, Quantizer

OFFSET = 128
"""What turns uint8 codes into int8 ones."""
ROWS = 256
"""Rows at a time on a CPU: what is in between stays in its caches (docs/research-notes.md)."""


class IntegerLinear(nn.Module):
    """y = s_x s_w Σ (a - z_x) (w - z_w), the sum in integers: x_…I (floating point) to y_…O.

    ``quantizer`` gives the codes a; weights are codes w_OI of steps of ``weight``, with a scale and zero point per O.
    With ``groups`` each group of outputs reads its own group of inputs, and w_OI has the inputs of one.
    """

    def __init__(self, quantizer: Quantizer, codes_OI: torch.Tensor, weight: IntegerView, groups: int = 1) -> None:
        super().__init__()
        self.quantizer, self.groups = quantizer, groups
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
        places, zero = int8_codes(self.quantizer, view, x_TI)
        total_TO = added(places, self._sums)
        total_TO -= zero * self.sum_O.to(total_TO.dtype)
        torch.mul(total_TO, view.scale * self.scale_O, out=y_TO)
        if (rest := part_of_a_step(view)) is not None:
            y_TO -= rest * view.scale * self.scale_O * self.sum_O

    def _sums(self, a_TI: torch.Tensor) -> torch.Tensor:
        """Return Σ a (w - z_w) of int8 codes."""
        if self.groups > 1:
            return self._grouped(a_TI.unflatten(1, (self.groups, -1)))
        total_TO = int_mm(a_TI, self.w_IO)
        if self.has_zeros:
            total_TO.addcmul_(a_TI.sum(1, keepdim=True, dtype=torch.int32), self.zero_O, value=-1)
        return total_TO

    def _grouped(self, a_TGI: torch.Tensor) -> torch.Tensor:
        """Return the sums group by group: whole numbers below 2^53, which float64 multiplies and adds exactly."""
        w_GIO = self.w_IO.unflatten(1, (self.groups, -1)).movedim(1, 0)
        total_TGO = (a_TGI.transpose(0, 1).double() @ w_GIO.double()).transpose(0, 1)
        sum_TG1 = a_TGI.sum(-1, keepdim=True, dtype=torch.int32)
        y_TGO: torch.Tensor = total_TGO - sum_TG1 * self.zero_O.unflatten(0, (self.groups, -1))
        return y_TGO.flatten(1).to(torch.int32)


class IntegerConvolution(nn.Module):
    """A convolution of one or two dimensions, in groups or transposed too, as an ``IntegerLinear`` of its windows.

    x_BCHW or x_BCW (floating point) to y_BOHW or y_BOW; zeros around and between x have a code like any other value.
    """

    def __init__(self, linear: IntegerLinear, geometry: Convolution) -> None:
        super().__init__()
        self.linear, self.geometry = linear, geometry

    def forward(self, x: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
        """Return the convolution plus the bias in float32."""
        y_BTO: torch.Tensor = self.linear(self.geometry.patches(x), bias_O)
        return y_BTO.transpose(1, 2).reshape(len(x), -1, *self.geometry.sides(x))


class IntegerProduct(nn.Module):
    """y = s_a s_b Σ (a - z_a) (b - z_b), the sum in integers: a_…MK and b_…KN (floating point) to y_…MN.

    A scale is one number or one per head. ``torch._int_mm`` knows no batches, so heads and images come one by one.
    """

    def __init__(self, left: Quantizer, right: Quantizer) -> None:
        super().__init__()
        self.left, self.right = left, right

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Return the product in float32."""
        left, right = view_of(self.left), view_of(self.right)
        (left_codes, zero_a), (right_codes, zero_b) = (
            int8_codes(self.left, left, a),
            int8_codes(self.right, right, b),
        )
        inner = a.shape[-1]
        total = added(left_codes, lambda a: added(right_codes, lambda b: products(a, b)))
        sum_a = added(left_codes, lambda a: a.sum(-1, keepdim=True, dtype=torch.int32)).to(total.dtype)
        sum_b = added(right_codes, lambda b: b.sum(-2, keepdim=True, dtype=torch.int32)).to(total.dtype)
        sum_b -= inner * zero_b
        total -= zero_b * sum_a
        total -= zero_a * sum_b
        y, scale = total * (left.scale * right.scale), left.scale * right.scale
        rest_a, rest_b = part_of_a_step(left), part_of_a_step(right)
        if rest_a is not None:
            y -= rest_a * scale * sum_b
        if rest_b is not None:
            less = 0 if rest_a is None else rest_a
            y -= rest_b * scale * (sum_a - inner * (zero_a + less))
        return y


def products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the int32 product of int8 a_…MK and b_…KN, matrix by matrix."""
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    pairs = zip(a.expand(*batch, -1, -1).flatten(0, -3), b.expand(*batch, -1, -1).flatten(0, -3), strict=True)
    found = [int_mm(a_MK.contiguous(), b_KN.contiguous()) for a_MK, b_KN in pairs]
    return torch.stack(found).reshape(*batch, a.shape[-2], b.shape[-1])


def int8_codes(quantizer: Quantizer, view: IntegerView, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return int8 codes in whole steps of one scale, byte by byte, the lowest first, and their whole zero point."""
    codes = view.spread(quantizer.encode(x))
    if codes.dtype is torch.uint8:
        bytes_, zero = [codes], view.zero_point.round().to(torch.int32)
    else:
        count = -(-view.steps.bit_length() // 8)
        bytes_ = [(codes >> 8 * place & 255).to(torch.uint8) for place in range(count)]
        zero = view.zero_point.double().round().to(torch.int64)
    offset = sum(OFFSET << 8 * place for place in range(len(bytes_)))  # highest bits flipped: 128 less in each byte
    return [(codes ^ OFFSET).view(torch.int8) for codes in bytes_], zero - offset


def added(places: list[torch.Tensor], sums: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return what ``sums`` gives for a number from what it gives for its bytes."""
    total = sums(places[0])
    for place, codes in enumerate(places[1:], 1):
        total = total.long().add_(sums(codes).long() << 8 * place)
    return total


def part_of_a_step(view: IntegerView) -> torch.Tensor | None:
    """Return by what a zero point differs from a whole number; None where all are whole."""
    rest = view.zero_point - view.zero_point.double().round()
    return rest.float() if bool(rest.any()) else None


def view_of(quantizer: Quantizer) -> IntegerView:
    """Return a quantizer's view in whole steps; ExportError where it has none."""
    view = quantizer.whole_steps()
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
