"""Views: training images changed at random, new ones for every step, and what a segment sees of them.

The quantized and the floating-point model run up to the segment for many views at a time, ahead of the steps that take
them; so many that their activations fill at most ``LIMIT`` bytes. Source: vitq; random crops as in Inception (arXiv
1409.4842), mixes as in mixup (arXiv 1710.09412), whose labels the teacher gives here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from vitq.reconstruct.data import Data
from vitq.reconstruct.groups import Views

LIMIT = 1 << 29
"""Bytes of activations at one segment that wait for their steps."""


@dataclass(frozen=True)
class Supply:
    """Gives a segment views and the rows that steps take of them.

    ``see`` returns what the segment sees of views x_NCHW; ``image_bytes`` is how much that is for one image.
    """

    images_NCHW: torch.Tensor
    views: Views
    see: Callable[[torch.Tensor], Data]
    image_bytes: int

    def steps(self, batch: int, left: int) -> int:
        """Return for how many of the ``left`` steps one supply is enough."""
        most = max(LIMIT // max(self.image_bytes, 1), batch)
        return max(min(most * self.views.reuse // batch, left), 1)

    def draw(self, batch: int, steps: int, generator: torch.Generator) -> tuple[Data, torch.Tensor]:
        """Return data of new views and rows_SB, each row ``reuse`` times at most, and once where one step is drawn."""
        count = max(math.ceil(batch * steps / self.views.reuse), batch)
        data = self.see(draw_views(self.images_NCHW, count, self.views, generator))
        rows = len(data.target)
        orders = [torch.randperm(rows, generator=generator) for _ in range(math.ceil(batch * steps / rows))]
        return data, torch.cat(orders)[: batch * steps].reshape(steps, batch)


def draw_views(images_NCHW: torch.Tensor, count: int, views: Views, generator: torch.Generator) -> torch.Tensor:
    """Return ``count`` views of random images: mixed with another one, then cropped, then mirrored."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    def pick() -> torch.Tensor:
        return images_NCHW[int(torch.randint(len(images_NCHW), (), generator=generator))].float()

    result = torch.empty(count, *images_NCHW.shape[1:])
    for place in range(count):
        x_CHW = pick()
        if uniform(0, 1) < views.mix:
            x_CHW = torch.lerp(x_CHW, pick(), uniform(0, 0.5))
        if views.crop < 1:
            area, ratio = uniform(views.crop, 1), math.exp(uniform(-math.log(4 / 3), math.log(4 / 3)))
            x_CHW = _cropped(x_CHW, (math.sqrt(area / ratio), math.sqrt(area * ratio)), (uniform(0, 1), uniform(0, 1)))
        result[place] = x_CHW.flip(-1) if uniform(0, 1) < views.flip else x_CHW
    return result


def _cropped(x_CHW: torch.Tensor, sides: tuple[float, float], at: tuple[float, float]) -> torch.Tensor:
    """Return a part of the image, ``sides`` of it high and wide, in the image's size."""
    whole = x_CHW.shape[1:]
    size = [min(max(round(side * full), 1), full) for side, full in zip(sides, whole, strict=True)]
    top, left = (round(place * (full - own)) for place, full, own in zip(at, whole, size, strict=True))
    part = x_CHW[None, :, top : top + size[0], left : left + size[1]]
    return F.interpolate(part, whole, mode="bilinear", antialias=True)[0]
