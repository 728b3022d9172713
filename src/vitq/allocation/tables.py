"""The bits that a run is asked for, the same everywhere or by site: what they mean for a recipe, a target, a model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from vitq.allocate import site_costs
from vitq.bits import MIXED, Bits, BitTable, mixed_label
from vitq.calibrate.scope import roles_of
from vitq.errors import RecipeError, did_you_mean
from vitq.export.targets import Profile, bits_for, weight_bits_for
from vitq.graph import Graph
from vitq.quantizers import Format


@dataclass(frozen=True)
class Asked:
    """The bits of a run: ``bits`` for what no ``table`` names, which is None where they are the same everywhere."""

    bits: Bits
    table: BitTable | None = None

    @classmethod
    def of(cls, given: Bits | BitTable) -> "Asked":
        """Return what ``bits`` of ``vitq.quantize`` ask for."""
        return cls(given) if isinstance(given, Bits) else cls(given.base, given)

    @property
    def overrides(self) -> dict[str, Any]:
        """What the table changes of a recipe."""
        if self.table is None:
            return {}
        return {"insert.overrides": {glob: {"bits": width} for glob, width in self.table.sites.items()}}

    @property
    def label(self) -> str:
        """Name of the bits before the model is known."""
        return str(self.bits) if self.table is None else MIXED

    def narrowed(self, profile: Profile) -> "Asked":
        """Return these bits with weights narrowed as a target needs them; by site as beside 8-bit activations."""
        return Asked(bits_for(self.bits, profile), self.table and _narrowed(self.table, profile))

    def require_sites(self, graph: Graph, scopes: Iterable[str]) -> None:
        """Raise RecipeError where a glob of the table names no site that ``scopes`` quantize."""
        if self.table is None:
            return
        roles = [roles_of(scope) for scope in scopes]
        names = [site.name for site in graph.sites.values() if any(site.readers(own) for own in roles)]
        for pattern in self.table.sites:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise RecipeError(f"{self.table.name}: no site matches '{pattern}'{did_you_mean(pattern, names)}")

    def label_on(self, graph: Graph, planned: Mapping[str, Format]) -> str:
        """Return the name of the bits that sites of ``graph`` are planned to get: ``w4a4``, or by averages."""
        if self.table is None:
            return self.label
        costs, bits = site_costs(graph), {name: form.bits for name, form in planned.items()}
        return mixed_label(costs.average(bits, weights=True), costs.average(bits, weights=False))


def _narrowed(table: BitTable, profile: Profile) -> BitTable:
    def narrowed(pattern: str, width: int) -> int:
        return weight_bits_for(width, profile) if pattern.endswith("weight") else width

    sites = {pattern: narrowed(pattern, width) for pattern, width in table.sites.items()}
    return replace(table, base=bits_for(table.base, profile), sites=sites)
