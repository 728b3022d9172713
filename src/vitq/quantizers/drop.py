"""QDrop masks: on a CPU from a pool of random bits, so that no random number is drawn per element and step."""

import torch

from vitq.errors import RecipeError
from vitq.quantizers.memory import memory_order

ALIGNMENT = 64  # offsets are multiples of this: vector loads, and no copy for alignment on a GPU


class DropMask:
    """Random bool masks: False (probability ``p``) leaves an element in floating point, True quantizes it.

    A call takes a slice of a pool at a random offset; the same seed and the same calls give the same masks.
    The pool has ``pool_size`` elements (1 byte each) and grows to twice the largest tensor; share it.
    A ``generator`` on a GPU draws every element afresh there: that costs little and a CUDA graph can replay it.
    Source: QDrop (arXiv 2203.05740), elementwise drop; the pool is vitq's.
    """

    def __init__(self, p: float = 0.5, pool_size: int = 1 << 24, generator: torch.Generator | None = None) -> None:
        if not 0.0 <= p <= 1.0:
            raise RecipeError(f"drop probability {p} is not a probability; choose it in [0, 1]")
        self.p = p
        self.generator = generator if generator is not None else torch.Generator().manual_seed(0)
        self._afresh = self.generator.device.type != "cpu"
        self._pool = self._draw(ALIGNMENT if self._afresh else max(pool_size, ALIGNMENT))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return a mask of the shape, device and memory order of x: a view of the pool, not to write to."""
        order = memory_order(x)
        mask = self._bits(x.numel(), x.device).view([x.shape[dim] for dim in order])
        return mask.permute([order.index(dim) for dim in range(x.ndim)])

    def _bits(self, count: int, device: torch.device) -> torch.Tensor:
        if self._afresh:
            return self._draw(count)
        if self._pool.numel() < 2 * count:
            self._pool = self._draw(2 * count)
        if self._pool.device != device:
            self._pool = self._pool.to(device)
        places = (self._pool.numel() - count) // ALIGNMENT + 1
        draw = torch.randint(places, (1,), generator=self.generator, device=self.generator.device)
        offset = ALIGNMENT * int(draw)
        return self._pool[offset : offset + count]

    def _draw(self, size: int) -> torch.Tensor:
        random = torch.rand(size, generator=self.generator, device=self.generator.device)
        return random >= self.p
