"""What is known of a model's sites once trials were run: costs and distances, which answer any budget."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitq.allocate.costs import Costs, Product, SiteCost
from vitq.allocate.problem import Floats, Problem
from vitq.errors import AllocationError, did_you_mean

DIGITS = 5
"""Significant digits of a distance in the file."""


@dataclass(frozen=True)
class Sensitivities:
    """Sites that can be chosen, their candidate bits, and per measure how far each choice alone moves the output.

    ``measures``: arrays (sites, bits) by name: "output" (the distance of ``OutputDistance``), "feature"
    (relative error of the penultimate feature), "proxy" (Fisher-weighted error at the unit's end). ``probes_SBD`` is
    what the proxy was made of; ``bytes_SB`` what each choice stores; ``blocks`` names the block of each site.
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

    def problem(
        self,
        limits: Mapping[str, float],
        *,
        by: str = "output",
        pairs: bool = False,
        keep: Mapping[str, int] | None = None,
    ) -> Problem:
        """Return the problem of meeting ``limits`` with the least of measure ``by``.

        ``pairs`` adds what sites of a block move together; ``keep`` maps globs to the only bits that those sites may
        get. AllocationError for a measure that was not taken, bits that were not tried, a glob that names no site.
        """
        if by not in self.measures:
            raise AllocationError(f"'{by}' was not measured{did_you_mean(by, self.measures)}")
        distance_SB = np.array(self.measures[by])
        finite = np.isfinite(distance_SB)
        distance_SB[~finite] = 10 * distance_SB[finite].max(initial=1.0)
        length_SB1 = np.linalg.norm(self.probes_SBD, axis=2, keepdims=True)
        return Problem(
            tuple(self.costs.sites[name] for name in self.sites),
            self.bits,
            np.maximum(distance_SB, 0.0),
            self.bytes_SB,
            self._allowed(keep or {}),
            self.costs.products,
            self.fixed_bits,
            self.fixed_bytes,
            dict(limits),
            self.probes_SBD / np.maximum(length_SB1, 1e-30) if pairs else None,
            self.blocks,
        )

    def _allowed(self, keep: Mapping[str, int]) -> NDArray[np.bool_]:
        allowed_SB = np.ones((len(self.sites), len(self.bits)), dtype=bool)
        for pattern, width in keep.items():
            named = [place for place, name in enumerate(self.sites) if fnmatchcase(name, pattern)]
            if not named:
                raise AllocationError(f"keep: no site matches '{pattern}'{did_you_mean(pattern, self.sites)}")
            if width not in self.bits:
                tried = ", ".join(map(str, self.bits))
                raise AllocationError(f"keep: '{pattern}': {width} bits were not tried, {tried} were")
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
        )


def _rounded(values: Floats) -> Any:
    """Return nested lists of numbers of few digits; what is not finite is null."""
    if values.ndim > 1:
        return [_rounded(row) for row in values]
    return [float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in values]
