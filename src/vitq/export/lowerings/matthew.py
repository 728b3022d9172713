"""Linear codes with steps skipped above 0: whole steps of one scale, in uint8."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitq.export.lowerings.lowering import Arguments, Lowering, register_lowering
from vitq.export.operators import number, op, translated_by, uint8
from vitq.quantizers import Quantizer


def rounded(x: Tensor, scale: Tensor, skipped: Tensor, qmax: int) -> Tensor:
    """Round to whole steps from ``skipped`` + 1 on, ``qmax`` of them; what is nearer to 0 than to the first is 0."""
    steps = x / scale
    whole = torch.minimum(torch.maximum(steps.round(), skipped + 1), skipped + qmax)
    return torch.where(steps > (skipped + 1) / 2, whole, 0.0) * scale


matthew_operation = torch.library.custom_op("vitq::matthew", rounded, mutates_args=())
matthew_float_operation = torch.library.custom_op("vitq::matthew_float", rounded, mutates_args=())
"""The same with parameters of broadcast shape, in floating point in the file."""


@translated_by(matthew_operation)
def _matthew(x: Any, scale: Any, skipped: Any, qmax: int) -> Any:
    zero = uint8("zero", 0)
    return op.DequantizeLinear(op.QuantizeLinear(_steps(x, scale, skipped, qmax), number(1), zero), scale, zero)


@translated_by(matthew_float_operation)
def _matthew_float(x: Any, scale: Any, skipped: Any, qmax: int) -> Any:
    return op.Mul(_steps(x, scale, skipped, qmax), scale)


def _steps(x: Any, scale: Any, skipped: Any, qmax: int) -> Any:
    steps, least = op.Div(x, scale), op.Add(skipped, number(1))
    whole = op.Min(op.Max(op.Round(steps), least), op.Add(skipped, number(qmax)))
    return op.Where(op.Greater(steps, op.Mul(least, number(0.5))), whole, number(0.0))


def matthew(quantizer: Quantizer, parameters: Mapping[str, Tensor]) -> Arguments:
    """Return scale, skipped steps and the last code."""
    return parameters["scale"], parameters["skipped"], quantizer.format.qmax


register_lowering("matthew", "matthew", floating=Lowering("matthew_float", matthew))(matthew)
