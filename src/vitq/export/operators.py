"""The operations that stand for quantizers in a lowered graph: what they compute, and how ONNX says it.

Each is a torch custom operation, so that ``torch.onnx`` sees one node, with an ONNX translation made of standard
operators. Codes travel as uint8 (activations) and int8 or, where that would saturate, uint8 (weights) whatever their
bits: ONNX Runtime then uses its integer kernels, and OpenVINO does where all weights are int8.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from onnx import TensorProto, helper
from onnxscript import opset21
from torch import Tensor

from vitq.quantizers.piecewise import RATIO

op: Any = opset21
TRANSLATIONS: dict[Any, Callable[..., Any]] = {}


def _number(value: float) -> Any:
    return op.Constant(value_float=float(value))


def _float(x: Any) -> Any:
    return op.Cast(x, to=TensorProto.FLOAT)


def translated_by(operation: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register how ONNX says a torch custom operation that gives a tensor like its first one."""

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


@translated_by(affine)
def _affine(x: Any, scale: Any, zero_point: Any, low: Any, high: Any) -> Any:
    codes = op.QuantizeLinear(op.Clip(x, low, high), scale, zero_point)
    return op.DequantizeLinear(codes, scale, zero_point)


@torch.library.custom_op("vitq::affine_float", mutates_args=())
def affine_float(x: Tensor, scale: Tensor, zero_point: Tensor, qmax: int) -> Tensor:
    """Quantize with parameters of broadcast shape, in floating point: no integer kernel takes a scale per head."""
    return (((x / scale).round() + zero_point).clamp(0, qmax) - zero_point) * scale


@translated_by(affine_float)
def _affine_float(x: Any, scale: Any, zero_point: Any, qmax: int) -> Any:
    raw = op.Add(op.Round(op.Div(x, scale)), zero_point)
    codes = op.Clip(raw, _number(0.0), _number(qmax))
    return op.Mul(op.Sub(codes, zero_point), scale)


@torch.library.custom_op("vitq::piecewise", mutates_args=())
def piecewise(x: Tensor, scale: Tensor, zero_point: Tensor, qmax: int) -> Tensor:
    """Round to steps of ``scale`` up to the knee and of RATIO scales above; the values are uint8 codes of one scale."""
    knee, zero = qmax // 2, zero_point.float()
    above = x / scale + (zero - knee)
    codes = torch.minimum(above, above / RATIO).round().clamp(-knee, qmax - knee)
    return (torch.maximum(codes, codes * RATIO) + (knee - zero)) * scale


@translated_by(piecewise)
def _piecewise(x: Any, scale: Any, zero_point: Any, qmax: int) -> Any:
    """Spread the codes from byte to byte, which ONNX Runtime does by a table."""
    knee = op.Constant(value=helper.make_tensor("knee", TensorProto.UINT8, (), [qmax // 2]))
    codes = op.QuantizeLinear(_narrow(x, scale, zero_point, qmax), _number(1), knee)
    wide = op.LeakyRelu(op.DequantizeLinear(codes, _number(RATIO), knee), alpha=1 / RATIO)
    return op.DequantizeLinear(op.QuantizeLinear(wide, _number(1), knee), scale, zero_point)


@torch.library.custom_op("vitq::piecewise_float", mutates_args=())
def piecewise_float(x: Tensor, scale: Tensor, zero_point: Tensor, qmax: int) -> Tensor:
    """Do as ``piecewise`` with parameters of broadcast shape, in floating point."""
    result: Tensor = piecewise(x, scale, zero_point, qmax)
    return result


@translated_by(piecewise_float)
def _piecewise_float(x: Any, scale: Any, zero_point: Any, qmax: int) -> Any:
    codes = op.Round(_narrow(x, scale, zero_point, qmax))
    wide = op.LeakyRelu(op.Mul(codes, _number(RATIO)), alpha=1 / RATIO)
    return op.Mul(op.Add(wide, op.Sub(_number(qmax // 2), _float(zero_point))), scale)


def _narrow(x: Any, scale: Any, zero_point: Any, qmax: int) -> Any:
    """Return the codes before rounding, counted from the knee: RATIO scales wide above it, one below."""
    knee = qmax // 2
    coarse = op.Div(x, op.Mul(scale, _number(RATIO)))
    shift = op.Mul(op.Sub(_float(zero_point), _number(knee)), _number(1 / RATIO))
    return op.Clip(op.LeakyRelu(op.Add(coarse, shift), alpha=float(RATIO)), _number(-knee), _number(qmax - knee))


@torch.library.custom_op("vitq::logarithm", mutates_args=())
def logarithm(x: Tensor, scale: Tensor, values: Tensor, octave: int) -> Tensor:
    """Look up the value of round(-octave log2(x / scale)), one of the codes of ``values``; zero has the last one."""
    codes = (x / scale).clamp(min=0).log2().mul(-octave).round().clamp(0, len(values) - 1)
    return values[codes.long()] * scale


@translated_by(logarithm)
def _logarithm(x: Any, scale: Any, values: Any, octave: int) -> Any:
    """Values are looked up: powers would be slower in OpenVINO, and Exp inexact. Zero has an infinite logarithm."""
    zero, last = _number(0.0), _number(values.shape[0] - 1)
    octaves = op.Mul(op.Log(op.Max(op.Div(x, scale), zero)), _number(-octave / math.log(2)))
    codes = op.Cast(op.Clip(op.Round(octaves), zero, last), to=TensorProto.INT32)
    return op.Mul(op.Gather(values, codes), scale)


@torch.library.custom_op("vitq::weight", mutates_args=())
def weight(codes: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    """Return the values of int8 or uint8 ``codes`` with a scale and zero point per ``axis``, or one for all."""
    shape = [1] * codes.ndim
    if scale.ndim:
        shape[axis] = -1
    return (codes.float() - zero_point.float().reshape(shape)) * scale.reshape(shape)


@translated_by(weight)
def _weight(codes: Any, scale: Any, zero_point: Any, axis: int) -> Any:
    return op.DequantizeLinear(codes, scale, zero_point, axis=axis)


weight.register_fake(lambda codes, *_: torch.empty_like(codes, dtype=torch.float32))


@torch.library.custom_op("vitq::linear", mutates_args=())
def linear(x: Tensor, w_IO: Tensor) -> Tensor:
    """Return x @ w, with the weight already transposed: integer kernels want it so."""
    return x @ w_IO


@translated_by(linear)
def _linear(x: Any, w_IO: Any) -> Any:
    return op.MatMul(x, w_IO)


linear.register_fake(lambda x, w_IO: x.new_empty((*x.shape[:-1], w_IO.shape[-1])))
