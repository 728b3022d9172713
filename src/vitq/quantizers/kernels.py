"""The straight-through simulation of any format, and its gradients, as one autograd function.

A format is two pure functions on float32 tensors (``Kernel``), codes being integers in float32 here:
    raw_codes(x, qmax, scale, zero_point) -> codes before clamping to [0, qmax]
    values(codes, qmax, scale, zero_point) -> x̂
so that simulation and decode(encode(x)) are the same operations. Gradients: LSQ and LSQ+
(arXiv 1902.08153, 2004.09576), which clip before they round; with inside = (x is in the range of x̂),
    dx̂/dx = inside,  dx̂/ds = (x̂ - inside * x) / s,  dx̂/dz = 0 inside, -s outside.
(Code that rounds first, as QDrop's and torch's, counts half a step more as inside, and there it shrinks a
scale that should grow.)
For the logarithmic formats this is vitq's choice: every format obeys x̂(cx, cs) = c x̂(x, s), and so by Euler's
theorem (x̂ - x dx̂/dx) / s is the one scale gradient that fits dx̂/dx = 1. Clipped values give x̂ / s = 2^-code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from vitq.quantizers.compiled import call_compiled, compiling
from vitq.quantizers.memory import Arrangement, arrangement

SMALLEST_SCALE = 2.0**-120  # scales live in [SMALLEST_SCALE, LARGEST_SCALE]: x̂ of every code stays finite
LARGEST_SCALE = 2.0**118
SMALLEST_COMPILED = 1 << 14  # elements; below, eager mode is as fast and no small shape needs compiling

MaybeTensor = torch.Tensor | None


@dataclass(frozen=True)
class Kernel:
    """The two pure functions that define a format; see the top of the file."""

    name: str
    raw_codes: Callable[[torch.Tensor, int, torch.Tensor, MaybeTensor], torch.Tensor]
    values: Callable[[torch.Tensor, int, torch.Tensor, MaybeTensor], torch.Tensor]


def clamp_scale(scale: torch.Tensor) -> torch.Tensor:
    """Return the scale as every kernel uses it: at least SMALLEST_SCALE, at most LARGEST_SCALE."""
    return scale.clamp(SMALLEST_SCALE, LARGEST_SCALE)


def value_range(
    kernel: Kernel, qmax: int, scale: torch.Tensor, zero_point: MaybeTensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the smallest and the largest x̂ of any code, in the shape of the scale."""
    first = kernel.values(torch.zeros_like(scale), qmax, scale, zero_point)
    last = kernel.values(torch.full_like(scale, qmax), qmax, scale, zero_point)
    return torch.minimum(first, last), torch.maximum(first, last)


def simulate(
    kernel: Kernel,
    x: torch.Tensor,
    mask: MaybeTensor,
    qmax: int,
    scale: torch.Tensor,
    zero_point: MaybeTensor,
) -> torch.Tensor:
    """Return x̂ (x where ``mask`` is 0) in the dtype of x; the maths is float32."""
    codes = kernel.raw_codes(x.float(), qmax, scale, zero_point).clamp_(0, qmax)
    values = kernel.values(codes, qmax, scale, zero_point)
    return (values if mask is None else torch.where(_nonzero(mask), values, x)).to(x.dtype)


def gradients(
    kernel: Kernel,
    grad: torch.Tensor,
    x: torch.Tensor,
    mask: MaybeTensor,
    qmax: int,
    scale: torch.Tensor,
    zero_point: MaybeTensor,
    low: torch.Tensor,
    high: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, MaybeTensor]:
    """Return the gradients of x, scale and zero point (None without one); [low, high] is the range of x̂."""
    x_float, s = x.float(), clamp_scale(scale)
    inside = (x_float >= low) & (x_float <= high)
    codes = kernel.raw_codes(x_float, qmax, scale, zero_point).clamp_(0, qmax)
    error = kernel.values(codes, qmax, scale, zero_point) - torch.where(inside, x_float, 0.0)
    through = grad.float()
    grad_x = torch.where(inside, grad, 0.0)
    if mask is not None:
        quantized = _nonzero(mask)
        through, grad_x = torch.where(quantized, through, 0.0), torch.where(quantized, grad_x, grad)
    grad_scale = _total(through * error, scale.shape) / s
    if zero_point is None:
        return grad_x, grad_scale, None
    return grad_x, grad_scale, -s * _total(torch.where(inside, 0.0, through), scale.shape)


def _total(x: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Sum x to the shape of its parameters, innermost dimension first: that fuses with elementwise work."""
    if x.ndim > 1 and shape[-1:] == (1,):
        x = x.sum(dim=-1, keepdim=True)
    return x.sum_to_size(shape)


def _nonzero(mask: torch.Tensor) -> torch.Tensor:
    """Read a mask: bool, or its bytes where compiled (inductor is 14 times slower at loading bool)."""
    return mask if mask.dtype is torch.bool else mask.float() > 0


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
