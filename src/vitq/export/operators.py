"""The operations that stand for quantizers in a lowered graph: what they compute, and how ONNX says it.

Each is a torch custom operation, so that ``torch.onnx`` sees one node, with an ONNX translation made of standard
operators. Codes travel as uint8 (activations) and int8 (weights) whatever their bits: both ONNX Runtime and OpenVINO
then use their integer kernels.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset21
from torch import Tensor

op: Any = opset21
TRANSLATIONS: dict[Any, Callable[..., Any]] = {}


def _translated_by(operation: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(translation: Callable[..., Any]) -> Callable[..., Any]:
        TRANSLATIONS[operation._opoverload] = translation
        operation.register_fake(lambda x, *_, **__: torch.empty_like(x))
        return translation

    return register


@torch.library.custom_op("vitq::affine", mutates_args=())
def affine(x: Tensor, scale: Tensor, zero_point: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Clip x to [low, high], quantize to codes of one scale, of the zero point's type, and dequantize."""
    clipped = torch.minimum(torch.maximum(x, low), high)
    zero, codes = zero_point.float(), torch.iinfo(zero_point.dtype)
    return ((clipped / scale).round().add(zero).clamp(codes.min, codes.max) - zero) * scale


@_translated_by(affine)
def _affine(x: Any, scale: Any, zero_point: Any, low: Any, high: Any) -> Any:
    codes = op.QuantizeLinear(op.Clip(x, low, high), scale, zero_point)
    return op.DequantizeLinear(codes, scale, zero_point)


@torch.library.custom_op("vitq::affine_float", mutates_args=())
def affine_float(x: Tensor, scale: Tensor, zero_point: Tensor, qmax: int) -> Tensor:
    """Quantize with parameters of broadcast shape, in floating point: no integer kernel takes a scale per head."""
    return (((x / scale).round() + zero_point).clamp(0, qmax) - zero_point) * scale


@_translated_by(affine_float)
def _affine_float(x: Any, scale: Any, zero_point: Any, qmax: int) -> Any:
    raw = op.Add(op.Round(op.Div(x, scale)), zero_point)
    codes = op.Clip(raw, op.Constant(value_float=0.0), op.Constant(value_float=float(qmax)))
    return op.Mul(op.Sub(codes, zero_point), scale)


@torch.library.custom_op("vitq::piecewise", mutates_args=())
def piecewise(x: Tensor, scale: Tensor, zero_point: Tensor, qmax: int) -> Tensor:
    """Round to steps of ``scale`` up to the knee and of 4 scales above; the values are uint8 codes of one scale."""
    knee, zero = qmax // 2, zero_point.float()
    above = x / scale + (zero - knee)
    codes = torch.minimum(above, above / 4).round().clamp(-knee, qmax - knee)
    return (torch.maximum(codes, codes * 4) + (knee - zero)) * scale


@_translated_by(piecewise)
def _piecewise(x: Any, scale: Any, zero_point: Any, qmax: int) -> Any:
    values = _two_ranges(x, scale, zero_point, qmax)
    return op.DequantizeLinear(op.QuantizeLinear(values, scale, zero_point), scale, zero_point)


@torch.library.custom_op("vitq::piecewise_float", mutates_args=())
def piecewise_float(x: Tensor, scale: Tensor, zero_point: Tensor, qmax: int) -> Tensor:
    """Do as ``piecewise`` with parameters of broadcast shape, in floating point."""
    result: Tensor = piecewise(x, scale, zero_point, qmax)
    return result


@_translated_by(piecewise_float)
def _piecewise_float(x: Any, scale: Any, zero_point: Any, qmax: int) -> Any:
    return _two_ranges(x, scale, zero_point, qmax)


def _two_ranges(x: Any, scale: Any, zero_point: Any, qmax: int) -> Any:
    knee = qmax // 2
    zero = op.Cast(zero_point, to=1)
    above = op.Add(op.Div(x, scale), op.Sub(zero, op.Constant(value_float=float(knee))))
    codes = op.Round(op.Min(above, op.Mul(above, op.Constant(value_float=0.25))))
    inside = op.Clip(codes, op.Constant(value_float=float(-knee)), op.Constant(value_float=float(qmax - knee)))
    wide = op.Max(inside, op.Mul(inside, op.Constant(value_float=4.0)))
    return op.Mul(op.Add(wide, op.Sub(op.Constant(value_float=float(knee)), zero)), scale)


@torch.library.custom_op("vitq::log2", mutates_args=())
def log2(x: Tensor, scale: Tensor, qmax: int, flush: bool) -> Tensor:
    """Round x / scale to a power of two, 2^-code with codes up to ``qmax``; with ``flush`` the last code is zero."""
    codes = (x / scale).clamp(min=0).log2().neg().round().clamp(0, qmax)
    values = torch.exp2(-codes) * scale
    return torch.where(codes == qmax, 0.0, values) if flush else values


@_translated_by(log2)
def _log2(x: Any, scale: Any, qmax: int, flush: bool) -> Any:
    codes = _log_codes(x, scale, qmax, -1 / math.log(2))
    values = op.Mul(op.Pow(op.Constant(value_float=2.0), op.Neg(codes)), scale)
    if not flush:
        return values
    last = op.Equal(codes, op.Constant(value_float=float(qmax)))
    return op.Where(last, op.Constant(value_float=0.0), values)


@torch.library.custom_op("vitq::log_sqrt2", mutates_args=())
def log_sqrt2(x: Tensor, scale: Tensor, qmax: int) -> Tensor:
    """Round x / scale to a power of √2, with codes up to ``qmax``."""
    codes = (x / scale).clamp(min=0).log2().mul(-2).round().clamp(0, qmax)
    half = (codes * 0.5).ceil()
    return torch.exp2(-half) * (1 + (half + half - codes) * (math.sqrt(2) - 1)) * scale


@_translated_by(log_sqrt2)
def _log_sqrt2(x: Any, scale: Any, qmax: int) -> Any:
    codes = _log_codes(x, scale, qmax, -2 / math.log(2))
    half = op.Ceil(op.Mul(codes, op.Constant(value_float=0.5)))
    odd = op.Sub(op.Add(half, half), codes)
    one = op.Constant(value_float=1.0)
    stretch = op.Add(one, op.Mul(odd, op.Constant(value_float=math.sqrt(2) - 1)))
    return op.Mul(op.Mul(op.Pow(op.Constant(value_float=2.0), op.Neg(half)), stretch), scale)


def _log_codes(x: Any, scale: Any, qmax: int, factor: float) -> Any:
    """Codes in floating point: no integer kernel takes them. Zero has an infinite logarithm, thus the last code."""
    ratio = op.Max(op.Div(x, scale), op.Constant(value_float=0.0))
    codes = op.Round(op.Mul(op.Log(ratio), op.Constant(value_float=factor)))
    return op.Clip(codes, op.Constant(value_float=0.0), op.Constant(value_float=float(qmax)))


@torch.library.custom_op("vitq::weight", mutates_args=())
def weight(codes: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    """Return the values of int8 ``codes`` with a scale and zero point per ``axis``, or one for all."""
    shape = [1] * codes.ndim
    if scale.ndim:
        shape[axis] = -1
    return (codes.float() - zero_point.float().reshape(shape)) * scale.reshape(shape)


@_translated_by(weight)
def _weight(codes: Any, scale: Any, zero_point: Any, axis: int) -> Any:
    return op.DequantizeLinear(codes, scale, zero_point, axis=axis)


weight.register_fake(lambda codes, *_: torch.empty_like(codes, dtype=torch.float32))


@torch.library.custom_op("vitq::linear", mutates_args=())
def linear(x: Tensor, w_IO: Tensor) -> Tensor:
    """Return x @ w, with the weight already transposed: integer kernels want it so."""
    return x @ w_IO


@_translated_by(linear)
def _linear(x: Any, w_IO: Any) -> Any:
    return op.MatMul(x, w_IO)


linear.register_fake(lambda x, w_IO: x.new_empty((*x.shape[:-1], w_IO.shape[-1])))
