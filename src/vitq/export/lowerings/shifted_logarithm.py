"""Logarithmic codes with shifts of their own: the values of all codes of each part are one table, looked up.

Where they are whole multiples of one scale that 8 bits hold, the table has these, and integer kernels take them.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitq.export.lowerings.lowering import Arguments, Lowering, register_lowering
from vitq.export.operators import number, op, to_int32, translated_by, uint8
from vitq.quantizers import Quantizer
from vitq.quantizers.adalog import OCTAVE
from vitq.quantizers.shift_uniform_log2 import spacing


@torch.library.custom_op("vitq::shifted_logarithm", mutates_args=())
def shifted_logarithm(
    x: Tensor, outer: Tensor, scale: Tensor, inner: Tensor, first: Tensor, step: Tensor, values: Tensor, at: Tensor
) -> Tensor:
    """Look up the value of round((first - log2(max((x + outer) / scale, 0) + inner)) / step).

    ``values`` holds those of all codes, part by part; ``at`` is where each part of x begins in it.
    """
    last = len(values) // at.numel() - 1
    logarithm = (((x + outer) / scale).clamp(min=0) + inner).log2()
    codes = ((first - logarithm) / step).round().clamp(0, last)
    return values[codes.long() + at]


@translated_by(shifted_logarithm)
def _shifted_logarithm(x: Any, outer: Any, scale: Any, inner: Any, first: Any, step: Any, values: Any, at: Any) -> Any:
    last = values.shape[0] // math.prod(at.shape) - 1
    ratio = op.Max(op.Div(op.Add(x, outer), scale), number(0.0))
    logarithm = op.Mul(op.Log(op.Add(ratio, inner)), number(1 / math.log(2)))
    codes = op.Clip(op.Round(op.Div(op.Sub(first, logarithm), step)), number(0.0), number(last))
    return op.Gather(values, op.Add(to_int32(codes), at))


@torch.library.custom_op("vitq::whole_logarithm", mutates_args=())
def whole_logarithm(x: Tensor, scale: Tensor, step: Tensor, wholes: Tensor, unit: Tensor) -> Tensor:
    """Look up the whole number of round(-log2(x / scale) / step), and return it in units."""
    codes = (-(x / scale).clamp(min=0).log2() / step).round().clamp(0, len(wholes) - 1)
    return wholes[codes.long()] * unit


@translated_by(whole_logarithm)
def _whole_logarithm(x: Any, scale: Any, step: Any, wholes: Any, unit: Any) -> Any:
    logarithm = op.Mul(op.Log(op.Max(op.Div(x, scale), number(0.0))), number(-1 / math.log(2)))
    codes = op.Clip(op.Round(op.Div(logarithm, step)), number(0.0), number(wholes.shape[0] - 1))
    zero = uint8("zero", 0)
    whole = op.QuantizeLinear(op.Gather(wholes, to_int32(codes)), number(1), zero)
    return op.DequantizeLinear(whole, unit, zero)


def values_of(quantizer: Quantizer, parameters: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the values of all codes, part by part, and where each part begins, in the broadcast shape."""
    qmax, scale = quantizer.format.qmax, parameters["scale"]
    codes = torch.arange(qmax + 1, dtype=torch.float32)
    values = quantizer.codec.dequantize(codes, qmax, {name: t.unsqueeze(-1) for name, t in parameters.items()})
    at = torch.arange(scale.numel(), dtype=torch.int32) * (qmax + 1)
    return values.flatten(), at.reshape(scale.shape)


def adalog_float(quantizer: Quantizer, parameters: Mapping[str, Tensor]) -> Arguments:
    """Return the shift before the division, steps of base / 37 octaves from 0, and the table."""
    none = torch.zeros_like(parameters["scale"])
    step = parameters["base"] / OCTAVE
    return parameters["shift"], parameters["scale"], none, none, step, *values_of(quantizer, parameters)


@register_lowering("adalog", "whole_logarithm", floating=Lowering("shifted_logarithm", adalog_float))
def adalog(quantizer: Quantizer, parameters: Mapping[str, Tensor]) -> Arguments:
    """Return scale, steps of base / 37 octaves, and the whole numbers of all codes with their unit."""
    view = quantizer.integer_view()
    assert view is not None
    wholes = view.spread(torch.arange(quantizer.format.qmax + 1, dtype=torch.uint8)).float()
    return parameters["scale"], parameters["base"] / OCTAVE, wholes, view.scale


@register_lowering("shift_uniform_log2", "shifted_logarithm")
def shift_uniform_log2(quantizer: Quantizer, parameters: Mapping[str, Tensor]) -> Arguments:
    """Return the shift behind the division, the steps from the largest logarithm, and the table."""
    scale, shift = parameters["scale"], parameters["shift"]
    first, step = spacing(shift, quantizer.format.qmax)
    return torch.zeros_like(scale), scale, shift, first, step, *values_of(quantizer, parameters)
