"""What is known of a model's sites once trials were run: costs and distances, which answer any budget."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitq.allocate.costs import Costs, Product, SiteCost
from vitq.allocate.problem import DISTANCE, Floats, Problem
from vitq.bits import FLOATING_POINT
from vitq.errors import AllocationError, did_you_mean

DIGITS = 5
"""Significant digits of a distance in the file."""


@dataclass(frozen=True)
class Sensitivities:
    """Sites that can be chosen, their candidate bits, and per measure how far each choice alone moves the output.

    ``measures``: arrays (sites, bits) by name: "output" (the distance of ``OutputDistance``), "feature"
    (relative error of the penultimate feature), "proxy" (Fisher-weighted error at the unit's end); NaN where the target
    does not carry the bits. ``probes_SBD`` is
    what the proxy was made of; ``bytes_SB`` what each choice stores; ``blocks`` names the block of each site.
    ``points`` (sites, bits) is what each choice alone is expected to cost of the task's score, in percent, None where
    the task has none. ``allowed`` are the bits that sites of a ``target`` may get, where those are not all.
    ``about`` says what it was measured on, and two are the same where it is equal.
    """

    about: Mapping[str, Any]
    bits: tuple[int, ...]
    sites: tuple[str, ...]
    costs: Costs
    measures: Mapping[str, Floats]
    probes_SBD: Floats
    bytes_SB: Floats
    fixed_bits: Mapping[str, int]
    fixed_bytes: int
    blocks: tuple[str, ...]
    points: Floats | None = None
    allowed: Mapping[str, Sequence[int]] = field(default_factory=dict)
    target: str | None = None

    def problem(
        self,
        limits: Mapping[str, float],
        *,
        by: str = "output",
        pairs: bool = False,
        keep: Mapping[str, int] | None = None,
        within: float | None = None,
    ) -> Problem:
        """Return the problem of meeting ``limits`` with the least of measure ``by``.

        ``pairs`` adds what sites of a block move together; ``keep`` maps globs to the only bits that those sites may
        get; ``within`` limits the expected loss of the task's score, in percent, and asks for the fewest bit
        operations. For a target, and ``within``, the operands of a product are in floating point both or not at all.
        AllocationError for a measure that was not taken, bits that were not tried, a glob that names no site.
        """
        if by not in self.measures:
            raise AllocationError(f"'{by}' was not measured{did_you_mean(by, self.measures)}")
        distance_SB = np.array(self.measures[by])
        finite = np.isfinite(distance_SB)
        distance_SB[~finite] = 10 * distance_SB[finite].max(initial=1.0)
        own_limits = dict(limits) if within is None else {**limits, DISTANCE: within / self.points_by(by)}
        allowed_SB = self._allowed(keep or {})
        tied = self._tied() if within is not None or self.target is not None else ()
        for group in map(list, tied):
            allowed_SB[group] = self._agreed(allowed_SB[group])
        length_SB1 = np.linalg.norm(self.probes_SBD, axis=2, keepdims=True)
        return Problem(
            tuple(self.costs.sites[name] for name in self.sites),
            self.bits,
            np.maximum(distance_SB, 0.0),
            self.bytes_SB,
            allowed_SB,
            self.costs.products,
            self.fixed_bits,
            self.fixed_bytes,
            own_limits,
            self.probes_SBD / np.maximum(length_SB1, 1e-30) if pairs else None,
            self.blocks,
            tied,
        )

    def points_by(self, by: str) -> float:
        """Return how many percent of the task's score are lost for one unit of measure ``by``: their ratio in trials.

        Both grow with the square of a small error (a class changes with a probability as large as the error, and its
        score differs by as much), so that one number says it. AllocationError where the task has no score.
        Source: vitq.
        """
        if self.points is None:
            raise AllocationError("within: the trials know no score to stay within; trials by 'output' of classes do")
        moved_SB = np.nan_to_num(self.measures[by], nan=0.0, posinf=0.0) * np.isfinite(self.points)
        if not moved_SB.sum() > 0 or not np.nansum(self.points) > 0:
            raise AllocationError("within: no trial changed a class, even with its error enlarged; take more images")
        return float(np.nansum(self.points) / moved_SB.sum())

    def _tied(self) -> tuple[tuple[int, ...], ...]:
        """Return the sites that are in floating point together: those that a chain of products connects."""
        if FLOATING_POINT not in self.bits:
            return ()
        place = {name: number for number, name in enumerate(self.sites)}
        group = list(range(len(self.sites)))
        for product in self.costs.products:
            if product.left in place and product.right in place:
                old, new = group[place[product.left]], group[place[product.right]]
                group = [new if own == old else own for own in group]
        found = [tuple(site for site, own in enumerate(group) if own == first) for first in sorted(set(group))]
        return tuple(members for members in found if len(members) > 1)

    def _agreed(self, allowed_SB: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return what tied sites may get: floating point only where all may have it, and all where one has to."""
        high = self.bits.index(FLOATING_POINT)
        agreed_SB = allowed_SB.copy()
        quantized_S = np.delete(allowed_SB, high, axis=1).any(1)
        if not quantized_S.all() and allowed_SB[:, high].all():
            agreed_SB[:] = [own == FLOATING_POINT for own in self.bits]
        elif not allowed_SB[:, high].all() and quantized_S.all():
            agreed_SB[:, high] = False
        elif not quantized_S.all():
            raise AllocationError("sites that are multiplied with each other must all be in floating point, or none")
        return agreed_SB

    def _allowed(self, keep: Mapping[str, int]) -> NDArray[np.bool_]:
        allowed_SB = np.array([[b in self.allowed.get(s, self.bits) for b in self.bits] for s in self.sites])
        for pattern, width in keep.items():
            named = [place for place, name in enumerate(self.sites) if fnmatchcase(name, pattern)]
            if not named:
                raise AllocationError(f"keep: no site matches '{pattern}'{did_you_mean(pattern, self.sites)}")
            if width not in self.bits:
                tried = ", ".join(map(str, self.bits))
                raise AllocationError(f"keep: '{pattern}': {width} bits were not tried, {tried} were")
            for place in named:
                if width not in self.allowed.get(self.sites[place], self.bits):
                    text = f"{self.target} does not carry '{self.sites[place]}' with {width} bits"
                    raise AllocationError(f"keep: '{pattern}': {text}")
            allowed_SB[named] = [own == width for own in self.bits]
        return allowed_SB

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; ``from_dict`` reads them back, distances to five digits."""
        return {
            "about": dict(self.about),
            "bits": self.bits,
            "sites": self.sites,
            "costs": [asdict(site) for site in self.costs.sites.values()],
            "products": [asdict(product) for product in self.costs.products],
            "measures": {name: _rounded(values) for name, values in self.measures.items()},
            "probes": _rounded(self.probes_SBD),
            "bytes": self.bytes_SB.astype(int).tolist(),
            "fixed_bits": dict(self.fixed_bits),
            "fixed_bytes": self.fixed_bytes,
            "blocks": self.blocks,
            **({} if self.points is None else {"points": _rounded(self.points)}),
            **({} if self.target is None else {"target": self.target, "allowed": dict(self.allowed)}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Sensitivities":
        """Read what ``to_dict`` returned; LookupError, TypeError or ValueError for anything else."""
        sites = {row["name"]: SiteCost(**row) for row in data["costs"]}
        return cls(
            data["about"],
            tuple(data["bits"]),
            tuple(data["sites"]),
            Costs(sites, tuple(Product(**row) for row in data["products"])),
            {name: np.array(values, dtype=np.float64) for name, values in data["measures"].items()},
            np.array(data["probes"], dtype=np.float64),
            np.array(data["bytes"], dtype=np.float64),
            data["fixed_bits"],
            data["fixed_bytes"],
            tuple(data["blocks"]),
            np.array(data["points"], dtype=np.float64) if "points" in data else None,
            data.get("allowed", {}),
            data.get("target"),
        )


def _rounded(values: Floats) -> Any:
    """Return nested lists of numbers of few digits; what is not finite is null."""
    if values.ndim > 1:
        return [_rounded(row) for row in values]
    return [float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in values]
