"""Twin codes: the nearer of a fine and a coarse value, both whole multiples of one scale."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitq.export.lowerings.lowering import Arguments, Lowering, register_lowering
from vitq.export.operators import number, op, translated_by
from vitq.quantizers import Quantizer
from vitq.quantizers.twin import Twin


@torch.library.custom_op("vitq::twin_float", mutates_args=())
def twin_float_operation(x: Tensor, scale: Tensor, ratio: Tensor, low: Tensor, knee: Tensor, top: Tensor) -> Tensor:
    """Return the nearer of round(u) up to ``knee`` and ratio round(u / ratio), times scale; u is x / scale, clipped."""
    u = torch.minimum(torch.maximum(x / scale, low), top)
    fine, coarse = torch.minimum(u.round(), knee), (u / ratio).round().clamp(min=0.0) * ratio
    return torch.where((u - coarse).abs() < (u - fine).abs(), coarse, fine) * scale


def _units(x: Any, scale: Any, ratio: Any, low: Any, knee: Any, top: Any) -> Any:
    u = op.Min(op.Max(op.Div(x, scale), low), top)
    fine = op.Min(op.Round(u), knee)
    coarse = op.Mul(op.Max(op.Round(op.Div(u, ratio)), number(0)), ratio)
    return op.Where(op.Less(op.Abs(op.Sub(u, coarse)), op.Abs(op.Sub(u, fine))), coarse, fine)


@translated_by(twin_float_operation)
def _twin_float(x: Any, scale: Any, ratio: Any, low: Any, knee: Any, top: Any) -> Any:
    return op.Mul(_units(x, scale, ratio, low, knee, top), scale)


@torch.library.custom_op("vitq::twin", mutates_args=())
def twin_operation(
    x: Tensor, scale: Tensor, ratio: Tensor, low: Tensor, knee: Tensor, top: Tensor, zero_point: Tensor
) -> Tensor:
    """Do as ``twin_float``, through uint8 codes of one scale."""
    result: Tensor = twin_float_operation(x, scale, ratio, low, knee, top)
    return result


@translated_by(twin_operation)
def _twin(x: Any, scale: Any, ratio: Any, low: Any, knee: Any, top: Any, zero_point: Any) -> Any:
    codes = op.QuantizeLinear(_units(x, scale, ratio, low, knee, top), number(1), zero_point)
    return op.DequantizeLinear(codes, scale, zero_point)


def twin_float(quantizer: Quantizer, parameters: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """Return scale, ratio, and the lowest, the largest fine and the largest value in scales."""
    codec = quantizer.codec
    assert isinstance(codec, Twin)
    return parameters["scale"], parameters["ratio"], *codec.limits(quantizer.format.qmax, parameters)


@register_lowering("twin", "twin", floating=Lowering("twin_float", twin_float))
@register_lowering("twin_sign", "twin", floating=Lowering("twin_float", twin_float))
def twin(quantizer: Quantizer, parameters: Mapping[str, Tensor]) -> Arguments:
    """Return those of ``twin_float`` and the zero point of uint8."""
    return *twin_float(quantizer, parameters), parameters["zero"].to(torch.uint8)
