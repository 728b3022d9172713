"""Piecewise codes: two ranges bent into one, rounded, and bent back to whole steps of one scale."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitq.export.lowerings.lowering import Arguments, Lowering, register_lowering
from vitq.export.operators import number, op, to_float, translated_by, uint8
from vitq.quantizers import Quantizer
from vitq.quantizers.piecewise import RATIO


def rounded(x: Tensor, scale: Tensor, zero_point: Tensor, qmax: int) -> Tensor:
    """Round to steps of ``scale`` up to the knee and of RATIO scales above."""
    knee, zero = qmax // 2, zero_point.float()
    above = x / scale + (zero - knee)
    codes = torch.minimum(above, above / RATIO).round().clamp(-knee, qmax - knee)
    return (torch.maximum(codes, codes * RATIO) + (knee - zero)) * scale


piecewise_operation = torch.library.custom_op("vitq::piecewise", rounded, mutates_args=())
piecewise_float_operation = torch.library.custom_op("vitq::piecewise_float", rounded, mutates_args=())
"""The same with parameters of broadcast shape, in floating point in the file."""


@translated_by(piecewise_operation)
def _piecewise(x: Any, scale: Any, zero_point: Any, qmax: int) -> Any:
    """Spread the codes from byte to byte, which ONNX Runtime does by a table."""
    knee = uint8("knee", qmax // 2)
    codes = op.QuantizeLinear(_narrow(x, scale, zero_point, qmax), number(1), knee)
    wide = op.LeakyRelu(op.DequantizeLinear(codes, number(RATIO), knee), alpha=1 / RATIO)
    return op.DequantizeLinear(op.QuantizeLinear(wide, number(1), knee), scale, zero_point)


@translated_by(piecewise_float_operation)
def _piecewise_float(x: Any, scale: Any, zero_point: Any, qmax: int) -> Any:
    codes = op.Round(_narrow(x, scale, zero_point, qmax))
    wide = op.LeakyRelu(op.Mul(codes, number(RATIO)), alpha=1 / RATIO)
    return op.Mul(op.Add(wide, op.Sub(number(qmax // 2), to_float(zero_point))), scale)


def _narrow(x: Any, scale: Any, zero_point: Any, qmax: int) -> Any:
    """Return the codes before rounding, counted from the knee: RATIO scales wide above it, one below."""
    knee = qmax // 2
    coarse = op.Div(x, op.Mul(scale, number(RATIO)))
    shift = op.Mul(op.Sub(to_float(zero_point), number(knee)), number(1 / RATIO))
    return op.Clip(op.LeakyRelu(op.Add(coarse, shift), alpha=float(RATIO)), number(-knee), number(qmax - knee))


def too_wide(quantizer: Quantizer) -> str:
    """Refuse what must be an integer in the file and does not fit one."""
    if quantizer.axis is None and not quantizer.has_integer_values:
        return "piecewise values of more than 6 bits do not fit uint8; recalibrate with from_bits {7: affine}"
    return ""


def piecewise(quantizer: Quantizer, parameters: Mapping[str, Tensor]) -> Arguments:
    """Return scale, zero point of uint8 and the last code."""
    zero = parameters["zero_point"].round().to(torch.uint8)
    return parameters["scale"], zero, quantizer.format.qmax


register_lowering("piecewise", "piecewise", floating=Lowering("piecewise_float", piecewise), refuses=too_wide)(
    piecewise
)
