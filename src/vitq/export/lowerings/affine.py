"""Affine codes: QuantizeLinear and DequantizeLinear, for activations and for weights."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vitq.export.lowerings.lowering import Arguments, Codes, Lowering, WeightLowering, carried, register_lowering
from vitq.export.operators import number, op, to_float, translated_by
from vitq.quantizers import Quantizer


@torch.library.custom_op("vitq::affine", mutates_args=())
def affine_operation(x: Tensor, scale: Tensor, zero_point: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Clip x to [low, high], quantize to codes of one scale, of the zero point's type, and dequantize."""
    clipped = torch.minimum(torch.maximum(x, low), high)
    zero, codes = zero_point.float(), torch.iinfo(zero_point.dtype)
    return ((clipped / scale).round().add(zero).clamp(codes.min, codes.max) - zero) * scale


@translated_by(affine_operation)
def _affine(x: Any, scale: Any, zero_point: Any, low: Any, high: Any) -> Any:
    codes = op.QuantizeLinear(op.Clip(x, low, high), scale, zero_point)
    return op.DequantizeLinear(codes, scale, zero_point)


@torch.library.custom_op("vitq::affine_float", mutates_args=())
def affine_float_operation(x: Tensor, scale: Tensor, zero_point: Tensor, qmax: int) -> Tensor:
    """Quantize with parameters of broadcast shape, in floating point: no integer kernel takes a scale per head."""
    return (((x / scale).round() + zero_point).clamp(0, qmax) - zero_point) * scale


@translated_by(affine_float_operation)
def _affine_float(x: Any, scale: Any, zero_point: Any, qmax: int) -> Any:
    raw = op.Add(op.Round(op.Div(x, scale)), zero_point)
    codes = op.Clip(raw, number(0.0), number(qmax))
    return op.Mul(op.Sub(codes, zero_point), scale)


@torch.library.custom_op("vitq::weight", mutates_args=())
def weight(codes: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    """Return the values of int8 or uint8 ``codes`` with a scale and zero point per ``axis``, or one for all.

    A scale of two dimensions, groups and outputs in the order of ``codes``, is one for each group of inputs.
    """
    if scale.ndim == 2:
        shape, dim = groups_of(codes.shape, scale.shape, axis)
        found = (codes.reshape(shape).float() - zero_point.float().unsqueeze(dim)) * scale.unsqueeze(dim)
        return found.reshape(codes.shape)
    shape = [1] * codes.ndim
    if scale.ndim:
        shape[axis] = -1
    return (codes.float() - zero_point.float().reshape(shape)) * scale.reshape(shape)


def groups_of(codes: Sequence[int], scale: Sequence[int], axis: int) -> tuple[list[int], int]:
    """Return codes' shape with a dimension for each group's own inputs, and which one that is."""
    size = math.prod(codes) // math.prod(scale)
    return ([scale[0], size, scale[1]], 1) if axis else ([*scale, size], 2)


@translated_by(weight, lambda codes, *_: torch.empty_like(codes, dtype=torch.float32))
def _weight(codes: Any, scale: Any, zero_point: Any, axis: int) -> Any:
    """Groups are written out, not as DequantizeLinear: a runtime then computes the values once, when it loads them."""
    if len(scale.shape) == 2:
        shape, dim = groups_of(codes.shape, scale.shape, axis)
        wide, inner = (op.Constant(value_ints=[int(n) for n in dims]) for dims in (codes.shape, shape))
        at = op.Constant(value_ints=[dim])
        whole = op.Sub(to_float(op.Reshape(codes, inner)), to_float(op.Unsqueeze(zero_point, at)))
        return op.Reshape(op.Mul(whole, op.Unsqueeze(scale, at)), wide)
    return op.DequantizeLinear(codes, scale, zero_point, axis=axis)


@torch.library.custom_op("vitq::weight_values", mutates_args=())
def weight_values(codes: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    """Return what ``weight`` does, written so that no integer kernel is tried: a runtime computes it when it loads."""
    shape = [1] * codes.ndim
    shape[axis] = -1
    return (codes.float() - zero_point.float().reshape(shape)) * scale.reshape(shape)


@translated_by(weight_values, lambda codes, *_: torch.empty_like(codes, dtype=torch.float32))
def _weight_values(codes: Any, scale: Any, zero_point: Any, axis: int) -> Any:
    along = op.Constant(value_ints=[-1 if dim == axis else 1 for dim in range(len(codes.shape))])
    whole = op.Sub(to_float(codes), to_float(op.Reshape(zero_point, along)))
    return op.Mul(whole, op.Reshape(scale, along))


def weight_codes(quantizer: Quantizer, codes: Tensor, unsigned: bool) -> Codes:
    """Return codes, scale and zero point, offset to be int8 or as they are."""
    parameters = quantizer.parameters_dict()
    held, middle = carried(codes, quantizer.format.bits, unsigned)
    tensors = {"scale": parameters["scale"], "zero": (parameters["zero_point"].round() - middle).to(held.dtype)}
    shape = (len(codes), -1) if quantizer.format.granularity.size else (-1,)
    return held, {name: t.reshape(shape) if t.ndim else t for name, t in tensors.items()}


def affine_signed(quantizer: Quantizer, parameters: Mapping[str, Tensor]) -> Arguments:
    """Return scale, zero point 0 of int8, and both ends."""
    scale, _, low, high = affine(quantizer, parameters)
    return scale, torch.zeros((), dtype=torch.int8), low, high


def affine_float(quantizer: Quantizer, parameters: Mapping[str, Tensor]) -> Arguments:
    """Return scale, zero point and the last code, of broadcast shapes."""
    return parameters["scale"], parameters["zero_point"].round(), quantizer.format.qmax


@register_lowering(
    "affine",
    "affine",
    floating=Lowering("affine_float", affine_float),
    signed=Lowering("affine", affine_signed),
    weight=WeightLowering("weight", weight_codes),
)
def affine(quantizer: Quantizer, parameters: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """Return scale, zero point of uint8, and both ends."""
    scale, zero = parameters["scale"], parameters["zero_point"].round()
    return scale, zero.to(torch.uint8), -zero * scale, (quantizer.format.qmax - zero) * scale
