"""Logarithmic codes with shifts of their own: the values of all codes of each part are one table, looked up."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitq.export.lowerings.lowering import Arguments, register_lowering
from vitq.export.operators import number, op, to_int32, translated_by
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


def values_of(quantizer: Quantizer, parameters: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the values of all codes, part by part, and where each part begins, in the broadcast shape."""
    qmax, scale = quantizer.format.qmax, parameters["scale"]
    codes = torch.arange(qmax + 1, dtype=torch.float32)
    values = quantizer.codec.dequantize(codes, qmax, {name: t.unsqueeze(-1) for name, t in parameters.items()})
    at = torch.arange(scale.numel(), dtype=torch.int32) * (qmax + 1)
    return values.flatten(), at.reshape(scale.shape)


@register_lowering("adalog", "shifted_logarithm")
def adalog(quantizer: Quantizer, parameters: Mapping[str, Tensor]) -> Arguments:
    """Return the shift before the division, steps of base / 37 octaves from 0, and the table."""
    none = torch.zeros_like(parameters["scale"])
    step = parameters["base"] / OCTAVE
    return parameters["shift"], parameters["scale"], none, none, step, *values_of(quantizer, parameters)


@register_lowering("shift_uniform_log2", "shifted_logarithm")
def shift_uniform_log2(quantizer: Quantizer, parameters: Mapping[str, Tensor]) -> Arguments:
    """Return the shift behind the division, the steps from the largest logarithm, and the table."""
    scale, shift = parameters["scale"], parameters["shift"]
    first, step = spacing(shift, quantizer.format.qmax)
    return torch.zeros_like(scale), scale, shift, first, step, *values_of(quantizer, parameters)
