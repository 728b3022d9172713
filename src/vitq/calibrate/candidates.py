"""Candidate parameters of a quantizer: scale and zero point, K candidates for each of G groups.

A group's candidates are ranges [low, high]; a range becomes parameters by the format's own rule.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from vitq.quantizers import SMALLEST_SCALE, Format, Kernel, Quantizer
from vitq.quantizers.registry import FORMATS


@dataclass(frozen=True)
class Grid:
    """Candidates; ``zero_KG`` is None for formats without a zero point."""

    scale_KG: torch.Tensor
    zero_KG: torch.Tensor | None

    def __len__(self) -> int:
        return self.scale_KG.shape[0]

    def part(self, first: int, last: int) -> "Grid":
        """Return candidates ``first`` to ``last`` (exclusive)."""
        return Grid(self.scale_KG[first:last], None if self.zero_KG is None else self.zero_KG[first:last])

    def pick(self, best_G: torch.Tensor) -> "Grid":
        """Return for each group its own candidate ``best_G``, as a grid of one."""
        index = best_G[None, :]
        zero = None if self.zero_KG is None else self.zero_KG.gather(0, index)
        return Grid(self.scale_KG.gather(0, index), zero)

    def shaped(self, *shape: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return scale and zero point viewed as ``shape``."""
        return self.scale_KG.reshape(shape), None if self.zero_KG is None else self.zero_KG.reshape(shape)


NARROWEST = 1e-3
"""Least width of an unanchored range, in parts of the median one: a dead channel keeps a usable scale."""

Score = Callable[[Grid], torch.Tensor]
"""error_KG of the candidates of a grid: the smaller, the better."""


@dataclass(frozen=True)
class Target:
    """What is searched for: a format, and whether its ranges must hold zero.

    ``anchored`` False lets a group's range lie anywhere (a zero point outside the codes): channel-wise
    post-norm activations before their scales are transferred.
    """

    format: Format
    anchored: bool = True

    @property
    def _type(self) -> type[Quantizer]:
        return FORMATS[self.format.name]

    @property
    def steps(self) -> int:
        """How many scales wide the range of a format with a zero point is."""
        return self._type.steps(self.format.bits)

    @property
    def kernel(self) -> Kernel:
        """The two functions of the format."""
        return self._type.kernel

    @property
    def logarithmic(self) -> bool:
        """True for formats with a scale only, where the range's upper end is all that counts."""
        return "zero_point" not in self._type.parameter_names

    @property
    def one_sided(self) -> bool:
        """True where one number describes a range."""
        return self.logarithmic or self.format.symmetric

    def grid(self, low_KG: torch.Tensor, high_KG: torch.Tensor) -> Grid:
        """Return the parameters of the ranges [low, high]."""
        if self.logarithmic:
            return Grid(high_KG.clamp(min=SMALLEST_SCALE), None)
        if self.anchored or self.format.symmetric:
            return Grid(*self._type.from_range(low_KG, high_KG, self.format.bits, self.format.symmetric))
        width_KG = high_KG - low_KG
        width_KG = torch.maximum(width_KG, NARROWEST * width_KG.median(1, keepdim=True).values)
        scale_KG = (width_KG / self.steps).clamp(min=SMALLEST_SCALE)
        return Grid(scale_KG, (-low_KG / scale_KG).round())

    def range(self, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the ranges [low, high] that ``grid`` turns into parameters."""
        if grid.zero_KG is None:
            return -grid.scale_KG, grid.scale_KG
        if self.format.symmetric:
            half_KG = grid.scale_KG * self.steps / 2
            return -half_KG, half_KG
        return -grid.zero_KG * grid.scale_KG, (self.steps - grid.zero_KG) * grid.scale_KG

    def simulate(self, x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None) -> torch.Tensor:
        """Return x̂ for parameters that broadcast against x."""
        codes = self.kernel.raw_codes(x, self.format.qmax, scale, zero).clamp_(0, self.format.qmax)
        return self.kernel.values(codes, self.format.qmax, scale, zero)
