"""What the operations of a lowered graph are made of, and the one that multiplies by a weight.

Each is a torch custom operation, so that ``torch.onnx`` sees one node, with an ONNX translation made of standard
operators. Those of a number format lie beside its lowering. Codes travel as uint8 (activations) and int8 or, where
that would saturate, uint8 (weights) whatever their bits: ONNX Runtime then uses its integer kernels, and OpenVINO does
where all weights are int8.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

TRANSLATIONS: dict[Any, Callable[..., Any]] = {}


class _Operators:
    """ONNX's operators by name, from onnxscript, which is loaded by the first export alone."""

    def __getattr__(self, name: str) -> Any:
        from onnxscript import opset21

        return getattr(opset21, name)


op: Any = _Operators()


def number(value: float) -> Any:
    """Return a floating-point constant."""
    return op.Constant(value_float=float(value))


def uint8(name: str, value: int) -> Any:
    """Return a constant of uint8."""
    from onnx import TensorProto, helper

    return op.Constant(value=helper.make_tensor(name, TensorProto.UINT8, (), [value]))


def to_float(x: Any) -> Any:
    """Cast to float32."""
    from onnx import TensorProto

    return op.Cast(x, to=TensorProto.FLOAT)


def to_int32(x: Any) -> Any:
    """Cast to int32."""
    from onnx import TensorProto

    return op.Cast(x, to=TensorProto.INT32)


def translated_by(
    operation: Any, fake: Callable[..., Tensor] = lambda x, *_, **__: torch.empty_like(x)
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register how ONNX says a torch custom operation; ``fake`` gives a tensor like its result, by default like x."""

    def register(translation: Callable[..., Any]) -> Callable[..., Any]:
        TRANSLATIONS[operation._opoverload] = translation
        operation.register_fake(fake)
        return translation

    return register


@torch.library.custom_op("vitq::linear", mutates_args=())
def linear(x: Tensor, w_IO: Tensor) -> Tensor:
    """Return x @ w, with the weight already transposed: integer kernels want it so."""
    return x @ w_IO


@translated_by(linear, lambda x, w_IO: x.new_empty((*x.shape[:-1], w_IO.shape[-1])))
def _linear(x: Any, w_IO: Any) -> Any:
    return op.MatMul(x, w_IO)
