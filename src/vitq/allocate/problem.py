"""The question that a solver answers: which candidate bits each site gets, so that limits hold and little moves."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vitq.allocate.costs import Product, SiteCost
from vitq.bits import FLOATING_POINT
from vitq.errors import AllocationError

Choice = NDArray[np.int64]
"""Per site, in the problem's order, the place of its bits among the candidates."""
Floats = NDArray[np.float64]

WEIGHTS, ACTIVATIONS, SIZE, BIT_OPS = "average_weights", "average_activations", "size_bytes", "bit_ops"
DISTANCE = "distance"
LIMITS = {
    WEIGHTS: "average bits of weights",
    ACTIVATIONS: "average bits of activations",
    SIZE: "bytes of the stored tensors",
    BIT_OPS: "bit operations per image",
    DISTANCE: "expected distance",
}
"""What can be limited, in words; where the distance is, the fewest bit operations are wanted instead of it."""
TOLERANCE = 1e-9
"""Of a limit, relatively: what sums of floating-point numbers may be off."""


@dataclass(frozen=True)
class Problem:
    """Sites S with candidate bits B, ascending; what each choice costs and how far it moves the output alone.

    ``allowed_SB`` says which bits a site may get; ``fixed_bits`` are those of operands that are no sites here;
    ``fixed_bytes`` are stored whatever is chosen. ``directions_SBD`` are unit vectors of the errors' effects on the
    output, of which pairs of one ``group`` (block) have a share in common: two errors add up as |√d u + √e v|².
    Sites that are ``tied`` are all in floating point or none: the operands of products that a runtime does in integers.
    """

    sites: tuple[SiteCost, ...]
    bits: tuple[int, ...]
    distance_SB: Floats
    bytes_SB: Floats
    allowed_SB: NDArray[np.bool_]
    products: tuple[Product, ...] = ()
    fixed_bits: Mapping[str, int] = field(default_factory=dict)
    fixed_bytes: int = 0
    limits: Mapping[str, float] = field(default_factory=dict)
    directions_SBD: Floats | None = None
    groups: tuple[str, ...] = ()
    tied: tuple[tuple[int, ...], ...] = ()

    def within(self, limits: Mapping[str, float]) -> "Problem":
        """Return the problem with other limits."""
        return replace(self, limits=dict(limits))

    @cached_property
    def place(self) -> dict[str, int]:
        """Place of each site by its name."""
        return {site.name: place for place, site in enumerate(self.sites)}

    @property
    def highest(self) -> Choice:
        """Every site at the most bits that it may get."""
        last = self.allowed_SB.shape[1] - 1
        return np.asarray(last - np.argmax(self.allowed_SB[:, ::-1], axis=1), dtype=np.int64)

    @property
    def lowest(self) -> Choice:
        """Every site at the fewest bits that it may get."""
        return np.asarray(np.argmax(self.allowed_SB, axis=1), dtype=np.int64)

    @cached_property
    def floating(self) -> int:
        """Place of floating point among the candidates, -1 where it is none."""
        return self.bits.index(FLOATING_POINT) if FLOATING_POINT in self.bits else -1

    @cached_property
    def partners(self) -> dict[int, tuple[int, ...]]:
        """The sites that are tied to each, itself among them."""
        return {site: group for group in self.tied for site in group}

    def split(self, choice: Choice) -> list[str]:
        """Return the first site of every group that ``choice`` has in floating point in part."""
        high_S = choice == self.floating
        return [self.sites[group[0]].name for group in self.tied if 0 < high_S[list(group)].sum() < len(group)]

    @cached_property
    def widths_B(self) -> Floats:
        """The candidates as numbers."""
        return np.array(self.bits, dtype=np.float64)

    def linear(self, limit: str) -> tuple[Floats, float]:
        """Return what each choice adds to averages or bytes, and what is there without any."""
        return (self.bytes_SB, float(self.fixed_bytes)) if limit == SIZE else (self._averages[limit == WEIGHTS], 0.0)

    @cached_property
    def _averages(self) -> tuple[Floats, Floats]:
        """What each choice adds to the average bits of activations, and of weights."""
        return self._average(False), self._average(True)

    def _average(self, wanted: bool) -> Floats:
        share_S = np.array([site.elements if site.is_weight == wanted else 0 for site in self.sites], dtype=np.float64)
        return np.asarray(share_S[:, None] * self.widths_B / max(share_S.sum(), 1.0))

    def operands(self, product: Product) -> tuple[int | float, int | float]:
        """Return per operand its place (int) among the sites, or its fixed bits (float)."""
        ends = (product.left, product.right)
        left, right = (self.place.get(n, float(self.fixed_bits.get(n, FLOATING_POINT))) for n in ends)
        return left, right

    def cost(self, limit: str, choice: Choice) -> float:
        """Return what ``choice`` costs."""
        if limit == DISTANCE:
            return self.distance(choice)
        if limit != BIT_OPS:
            cost_SB, constant = self.linear(limit)
            return float(cost_SB[np.arange(len(choice)), choice].sum()) + constant
        widths = [self.bits[place] for place in choice]
        total = 0.0
        for macs, ends in self._operands:
            left, right = (widths[end] if isinstance(end, int) else end for end in ends)
            total += macs * left * right
        return total

    @cached_property
    def _operands(self) -> list[tuple[int, tuple[int | float, int | float]]]:
        return [(product.macs, self.operands(product)) for product in self.products]

    def costs(self, choice: Choice) -> dict[str, float]:
        """Return every cost of ``choice``."""
        return {limit: self.cost(limit, choice) for limit in LIMITS if limit != DISTANCE}

    def unmet(self, choice: Choice) -> list[str]:
        """Return the limits that ``choice`` exceeds."""
        return [name for name, most in self.limits.items() if self.cost(name, choice) > most * (1 + TOLERANCE)]

    def distance(self, choice: Choice) -> float:
        """Return the expected distance: what all choices move alone, and what pairs in a group move together."""
        rows = np.arange(len(choice))
        alone_S = self.distance_SB[rows, choice]
        if self.directions_SBD is None:
            return float(alone_S.sum())
        error_SD = np.sqrt(alone_S)[:, None] * self.directions_SBD[rows, choice]
        groups = np.array(self.groups)
        shared = 0.0
        for group in np.unique(groups):
            own_SD = error_SD[groups == group]
            shared += float(np.square(own_SD.sum(0)).sum() - np.square(own_SD).sum())
        return float(alone_S.sum()) + shared

    def require_feasible(self) -> None:
        """Raise AllocationError, which names the nearest that can be had, where a limit cannot be met by itself."""
        ends = {name: self.highest if name == DISTANCE else self.lowest for name in self.limits}
        if unmet := [name for name, end in ends.items() if name in self.unmet(end)]:
            lines = [
                f"{LIMITS[name]} of at most {self.limits[name]:.9g}; the least is {self.cost(name, ends[name]):.9g}"
                for name in unmet
            ]
            raise AllocationError(f"no bits from {self.bits[0]} to {self.bits[-1]} give {'; '.join(lines)}")

    def named(self, choice: Choice) -> dict[str, int]:
        """Return the bits of ``choice`` by site name."""
        return {site.name: self.bits[place] for site, place in zip(self.sites, choice, strict=True)}
