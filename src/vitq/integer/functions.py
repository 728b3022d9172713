"""What is no product, on integer codes: functions by a table, softmax, norms, and sums of two tensors.

As everywhere in the executor a tensor between two operations holds values; each takes the codes of its input, works
with whole numbers, and multiplies by scales at its end. Sums that int32 may not hold have 64 bits.
"""

import torch
from torch import nn

from vitq.integer.modules import view_of
from vitq.quantizers import IntegerView, Quantizer
from vitq.quantizers.tokens import picked, put

FRACTION = 30
"""Bits behind the point of a softmax's exponentials: 1 is 2^30."""
SMALLEST = 1024
"""By what the least scale of a norm's channels is divided at most, to find a unit of all."""
ROUNDING = 2.0**-22
"""By which part of itself a float32 scale may differ from a whole multiple."""
WIDEST = 31
"""Bits of what a residual sum adds."""


class IntegerTable(nn.Module):
    """y = the value at each code of its channel's row: an activation function of a tensor, or of channels or heads.

    ``values``: (G, Q), one row for each of the quantizer's G sets of parameters.
    """

    def __init__(self, quantizer: Quantizer, values: torch.Tensor) -> None:
        super().__init__()
        self.quantizer = quantizer
        rows, entries = values.shape
        self.register_buffer("values", values.flatten())
        first = torch.arange(rows, device=values.device) * entries
        behind = 0 if quantizer.axis is None else -1 - quantizer.axis
        self.register_buffer("first", first.reshape(-1, *[1] * behind))

    values: torch.Tensor
    first: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Look every code up."""
        return self.values[self.quantizer.encode(x).long() + self.first]


class IntegerSoftmax(nn.Module):
    """y = e_i / Σ e, e the whole numbers 2^30 exp(-s (largest code - code)), which a table holds.

    One scale, or one per head, and ``dim`` is behind the heads.
    """

    def __init__(self, quantizer: Quantizer, dim: int) -> None:
        super().__init__()
        self.quantizer, self.dim = quantizer, dim
        view = view_of(quantizer)
        entries = view.steps + 1
        down = torch.arange(entries, device=view.scale.device).double()
        table_HN = (-view.scale.double().reshape(-1, 1) * down).exp().mul(1 << FRACTION).round().long()
        self.register_buffer("table", table_HN.flatten())
        first = torch.arange(len(table_HN), device=view.scale.device) * entries
        self.register_buffer("first", first.reshape(view.scale.shape))

    table: torch.Tensor
    first: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return shares of one, in float32."""
        codes = view_of(self.quantizer).spread(self.quantizer.encode(x)).long()
        parts = self.table[codes.amax(self.dim, keepdim=True) - codes + self.first]
        return (parts.double() / parts.sum(self.dim, keepdim=True)).float()


class IntegerNorm(nn.Module):
    """Layer and RMS norms with Σ n and Σ n² of whole numbers n, over the last ``dims`` axes.

    With C numbers of a unit u, a layer norm is (C n - Σ n) / √(C Σ n² - (Σ n)² + ε C² / u²), and an RMS norm
    C n / √(C Σ n² + ε C² / u²). Channels may have scales that are whole multiples of one, as factors make them.
    """

    def __init__(self, quantizer: Quantizer, dims: int, eps: float, *, centred: bool) -> None:
        super().__init__()
        self.quantizer, self.dims, self.eps, self.centred = quantizer, dims, eps, centred
        found = units(view_of(quantizer))
        assert found is not None
        self.register_buffer("unit", found[0])
        self.register_buffer("factor", found[1])

    unit: torch.Tensor
    factor: torch.Tensor

    def forward(self, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Return the norm in float32."""
        view, axes = view_of(self.quantizer), tuple(range(-self.dims, 0))
        n = (view.spread(self.quantizer.encode(x)).long() - view.zero_point.round().long()) * self.factor
        count = n[(0,) * (n.ndim - self.dims)].numel()
        square = count * n.square().sum(axes, keepdim=True)
        n = count * n
        if self.centred:
            total = n.sum(axes, keepdim=True) // count
            square, n = square - total.square(), n - total
        y = (n.double() / (square.double() + self.eps * count**2 / self.unit.double().square()).sqrt()).float()
        y = y if weight is None else y * weight
        return y if bias is None else y + bias


class IntegerSum(nn.Module):
    """y = u (m_a (a - z_a) + m_b (b - z_b)), m the scales in a unit u so small that sums have 31 bits."""

    def __init__(self, left: Quantizer, right: Quantizer) -> None:
        super().__init__()
        self.left, self.right = left, right

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Return the sum in float32."""
        sides = [(quantizer, view_of(quantizer), x) for quantizer, x in ((self.left, a), (self.right, b))]
        bits = 1 + max(view.steps.bit_length() for _, view, _ in sides)
        unit = torch.maximum(*(view.scale.double() for _, view, _ in sides)) * 2.0 ** (bits - WIDEST)
        total: torch.Tensor | int = 0
        for quantizer, view, x in sides:
            whole = view.spread(quantizer.encode(x)).long() - view.zero_point.round().long()
            total = whole * (view.scale.double() / unit).round().long() + total
        assert isinstance(total, torch.Tensor)
        return (total * unit).float()


class TokensApart(nn.Module):
    """An operation on all tokens of x_BTC, and one of its kind on those at ``places_P``, which have their own scales.

    ``operands``: how many of the arguments hold tokens, the first ones.
    """

    def __init__(self, ordinary: nn.Module, own: nn.Module, places_P: torch.Tensor, operands: int) -> None:
        super().__init__()
        self.ordinary, self.own, self.operands = ordinary, own, operands
        self.register_buffer("places_P", places_P)

    places_P: torch.Tensor

    def forward(self, *arguments: torch.Tensor | None) -> torch.Tensor:
        """Return what the first makes of all, with what the other makes of its tokens in their places."""
        tokens = [picked(x, self.places_P) for x in arguments[: self.operands] if x is not None]
        return put(self.ordinary(*arguments), self.places_P, self.own(*tokens, *arguments[self.operands :]))


def units(view: IntegerView) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return a scale of which all scales are whole multiples, but for rounding, and these multiples; None without one.

    It is the least scale, or a whole part of it.
    """
    least = view.scale.min()
    ratio_G = (view.scale / least).double().flatten()
    multiples_KG = torch.arange(1, SMALLEST + 1, device=ratio_G.device)[:, None] * ratio_G
    whole_K = ((multiples_KG - multiples_KG.round()).abs() <= ROUNDING * multiples_KG).all(1)
    if not bool(whole_K.any()):
        return None
    unit = least / (int(whole_K.nonzero()[0]) + 1)
    return unit, (view.scale / unit).round().long()


def whole_zeros(*views: IntegerView) -> bool:
    """Tell whether zero points are whole numbers."""
    return all(bool((view.zero_point == view.zero_point.round()).all()) for view in views)
