"""The simulation of any format as one autograd function, eager or through compiled kernels."""

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from vitq.quantizers.codec import Codec, Parameters
from vitq.quantizers.compiled import call_compiled, compiling
from vitq.quantizers.kernels import MaybeTensor, gradients, simulate
from vitq.quantizers.memory import Arrangement, arrangement

SMALLEST_COMPILED = 1 << 14  # elements; below, eager mode is as fast and no small shape needs compiling


def fake_quantize(
    codec: Codec, x: torch.Tensor, qmax: int, parameters: Parameters, keep_mask: MaybeTensor = None
) -> torch.Tensor:
    """Simulate quantization of x with gradients for x and the parameters.

    ``keep_mask``: bool of the shape of x; True quantizes, False keeps x. Eager but in ``use_compiled_kernels``;
    compiled affine and piecewise values equal eager ones bit for bit.
    """
    if not torch.is_grad_enabled():
        return _simulate(codec, x, keep_mask, qmax, parameters, _arrangement(codec, x, parameters))
    apply: Callable[..., torch.Tensor] = _FakeQuantize.apply
    return apply(codec, x, keep_mask, qmax, tuple(parameters), *parameters.values())


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        codec: Codec,
        x: torch.Tensor,
        mask: MaybeTensor,
        qmax: int,
        names: tuple[str, ...],
        *tensors: torch.Tensor,
    ) -> torch.Tensor:
        parameters = dict(zip(names, tensors, strict=True))
        ctx.save_for_backward(x, mask, *tensors)
        ctx.codec, ctx.qmax, ctx.names, ctx.like = codec, qmax, names, _arrangement(codec, x, parameters)
        return _simulate(codec, x, mask, qmax, parameters, ctx.like)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        codec: Codec = ctx.codec
        like: Arrangement | None = ctx.like
        x, mask, *tensors = ctx.saved_tensors
        parameters = dict(zip(ctx.names, tensors, strict=True))
        if like is None:
            bounds = codec.value_range(ctx.qmax, parameters)
            grad_x, found = gradients(codec, grad, x, mask, ctx.qmax, parameters, *bounds)
        else:
            key = _key(codec, "backward", like, x, mask)
            arranged = _arranged(parameters, like)
            bounds = codec.value_range(ctx.qmax, arranged)
            views = like.arrange(grad), like.arrange(x), _bytes(mask, like)
            flat_x, found = call_compiled(key, gradients, codec, *views, ctx.qmax, arranged, *bounds)
            grad_x = like.restore(flat_x)
        grads = (found[name].reshape(t.shape) if name in found else None for name, t in parameters.items())
        return None, grad_x, None, None, None, *grads


def _bytes(mask: MaybeTensor, like: Arrangement) -> MaybeTensor:
    return None if mask is None else like.arrange(mask).view(torch.uint8).data


def _arranged(parameters: Parameters, like: Arrangement) -> Parameters:
    return {name: like.arrange_parameter(tensor) for name, tensor in parameters.items()}


def _key(codec: Codec, way: str, like: Arrangement, x: torch.Tensor, mask: MaybeTensor) -> tuple[Any, ...]:
    return codec.name, way, like.kind, "plain" if mask is None else "masked", x.dtype, x.device.type


def _arrangement(codec: Codec, x: torch.Tensor, parameters: Parameters) -> Arrangement | None:
    """Return how a compiled kernel sees x, None where eager mode does as well or shapes of parameters differ."""
    if not compiling() or x.numel() < SMALLEST_COMPILED or any(parameter.own(1) for parameter in codec.parameters):
        return None
    first, *others = parameters.values()
    return arrangement(x, first) if all(tensor.shape == first.shape for tensor in others) else None


def _simulate(
    codec: Codec, x: torch.Tensor, mask: MaybeTensor, qmax: int, parameters: Parameters, like: Arrangement | None
) -> torch.Tensor:
    if like is None:
        return simulate(codec, x, mask, qmax, parameters)
    key = _key(codec, "forward", like, x, mask)
    views = like.arrange(x), _bytes(mask, like)
    out: torch.Tensor = call_compiled(key, simulate, codec, *views, qmax, _arranged(parameters, like))
    return like.restore(out)
