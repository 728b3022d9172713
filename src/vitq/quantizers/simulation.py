"""The simulation of any format as one autograd function, eager or through compiled kernels."""

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from vitq.quantizers.compiled import call_compiled, compiling
from vitq.quantizers.kernels import Kernel, MaybeTensor, gradients, simulate, value_range
from vitq.quantizers.memory import Arrangement, arrangement

SMALLEST_COMPILED = 1 << 14  # elements; below, eager mode is as fast and no small shape needs compiling


def fake_quantize(
    kernel: Kernel,
    x: torch.Tensor,
    qmax: int,
    scale: torch.Tensor,
    zero_point: MaybeTensor = None,
    keep_mask: MaybeTensor = None,
) -> torch.Tensor:
    """Simulate quantization of x with gradients for x, scale and zero point.

    ``keep_mask``: bool of the shape of x; True quantizes, False keeps x. Eager but in ``use_compiled_kernels``;
    compiled affine and piecewise values equal eager ones bit for bit.
    """
    if not torch.is_grad_enabled():
        return _simulate(kernel, x, keep_mask, qmax, scale, zero_point, _arrangement(x, scale))
    apply: Callable[..., torch.Tensor] = _FakeQuantize.apply
    return apply(kernel, x, keep_mask, qmax, scale, zero_point)


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        kernel: Kernel,
        x: torch.Tensor,
        mask: MaybeTensor,
        qmax: int,
        scale: torch.Tensor,
        zero_point: MaybeTensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, mask, scale, zero_point)
        ctx.kernel, ctx.qmax, ctx.like = kernel, qmax, _arrangement(x, scale)
        return _simulate(kernel, x, mask, qmax, scale, zero_point, ctx.like)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        kernel: Kernel = ctx.kernel
        like: Arrangement | None = ctx.like
        x, mask, scale, zero_point = ctx.saved_tensors
        if like is None:
            bounds = value_range(kernel, ctx.qmax, scale, zero_point)
            grad_x, *rest = gradients(kernel, grad, x, mask, ctx.qmax, scale, zero_point, *bounds)
        else:
            key = _key(kernel, "backward", like, x, mask)
            s, z = _parameters(scale, zero_point, like)
            bounds = value_range(kernel, ctx.qmax, s, z)
            views = like.arrange(grad), like.arrange(x), _bytes(mask, like)
            flat_x, *rest = call_compiled(key, gradients, kernel, *views, ctx.qmax, s, z, *bounds)
            grad_x = like.restore(flat_x)
        grad_scale, grad_zero_point = (None if g is None else g.reshape(scale.shape) for g in rest)
        return None, grad_x, None, None, grad_scale, grad_zero_point


def _bytes(mask: MaybeTensor, like: Arrangement) -> MaybeTensor:
    return None if mask is None else like.arrange(mask).view(torch.uint8).data


def _parameters(scale: torch.Tensor, zero_point: MaybeTensor, like: Arrangement) -> tuple[torch.Tensor, MaybeTensor]:
    return like.arrange_parameter(scale), None if zero_point is None else like.arrange_parameter(zero_point)


def _key(kernel: Kernel, way: str, like: Arrangement, x: torch.Tensor, mask: MaybeTensor) -> tuple[Any, ...]:
    return kernel.name, way, like.kind, "plain" if mask is None else "masked", x.dtype, x.device.type


def _arrangement(x: torch.Tensor, scale: torch.Tensor) -> Arrangement | None:
    """Return how a compiled kernel sees x, None where eager mode does as well."""
    return arrangement(x, scale) if compiling() and x.numel() >= SMALLEST_COMPILED else None


def _simulate(
    kernel: Kernel,
    x: torch.Tensor,
    mask: MaybeTensor,
    qmax: int,
    scale: torch.Tensor,
    zero_point: MaybeTensor,
    like: Arrangement | None,
) -> torch.Tensor:
    if like is None:
        return simulate(kernel, x, mask, qmax, scale, zero_point)
    key = _key(kernel, "forward", like, x, mask)
    views = like.arrange(x), _bytes(mask, like)
    s, z = _parameters(scale, zero_point, like)
    out: torch.Tensor = call_compiled(key, simulate, kernel, *views, qmax, s, z)
    return like.restore(out)
