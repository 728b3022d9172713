"""The straight-through simulation of any format, and its gradients, as pure functions.

Simulation and decode(encode(x)) are the same operations of a ``Codec``. Gradients: LSQ and LSQ+
(arXiv 1902.08153, 2004.09576), which clip before they round; with inside = (x is in the range of x̂),
    dx̂/dx = inside,  dx̂/ds = (x̂ - inside * x) / s,  dx̂/dz = 0 inside, -s outside.
(Code that rounds first, as QDrop's and torch's, counts half a step more as inside, and there it shrinks a
scale that should grow.)
For the logarithmic formats this is vitq's choice: every format obeys x̂(cx, cs) = c x̂(x, s), and so by Euler's
theorem (x̂ - x dx̂/dx) / s is the one scale gradient that fits dx̂/dx = 1. Clipped values give x̂ / s = 2^-code.
"""

import torch

from vitq.quantizers.codec import Codec, Parameters

MaybeTensor = torch.Tensor | None


def simulate(codec: Codec, x: torch.Tensor, mask: MaybeTensor, qmax: int, p: Parameters) -> torch.Tensor:
    """Return x̂ (x where ``mask`` is 0) in the dtype of x; the maths is float32."""
    codes = codec.quantize(x.float(), qmax, p).clamp_(0, qmax)
    values = codec.dequantize(codes, qmax, p)
    return (values if mask is None else torch.where(_nonzero(mask), values, x)).to(x.dtype)


def gradients(
    codec: Codec,
    grad: torch.Tensor,
    x: torch.Tensor,
    mask: MaybeTensor,
    qmax: int,
    p: Parameters,
    low: torch.Tensor,
    high: torch.Tensor,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the gradients of x and, by name, of the parameters that have one; [low, high] is the range of x̂."""
    x_float = x.float()
    inside = (x_float >= low) & (x_float <= high)
    codes = codec.quantize(x_float, qmax, p).clamp_(0, qmax)
    values = codec.dequantize(codes, qmax, p)
    through = grad.float()
    grad_x = torch.where(inside, grad, 0.0)
    if mask is not None:
        quantized = _nonzero(mask)
        through, grad_x = torch.where(quantized, through, 0.0), torch.where(quantized, grad_x, grad)
    return grad_x, codec.gradients(through, x_float, codes, values, inside, qmax, p)


def _nonzero(mask: torch.Tensor) -> torch.Tensor:
    """Read a mask: bool, or its bytes where compiled (inductor is 14 times slower at loading bool)."""
    return mask if mask.dtype is torch.bool else mask.float() > 0
