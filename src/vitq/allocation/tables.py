"""A bit table meets a model: sites that it names, what its bits are on average, what a target makes of them."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

from vitq.allocate import site_costs
from vitq.bits import Bits, BitTable, mixed_label
from vitq.calibrate.scope import roles_of
from vitq.errors import RecipeError, did_you_mean
from vitq.export.targets import Profile, bits_for
from vitq.graph import Graph
from vitq.quantizers import Format


def require_sites(table: BitTable, graph: Graph, scopes: Iterable[str]) -> None:
    """Raise RecipeError where a glob of ``table`` names no site that ``scopes`` quantize."""
    roles = [roles_of(scope) for scope in scopes]
    names = [site.name for site in graph.sites.values() if any(site.readers(own) for own in roles)]
    for pattern in table.sites:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise RecipeError(f"{table.name}: no site matches '{pattern}'{did_you_mean(pattern, names)}")


def label_of(graph: Graph, planned: Mapping[str, Format]) -> str:
    """Return the name of the mixed bits that sites of ``graph`` are planned to get."""
    costs, bits = site_costs(graph), {name: form.bits for name, form in planned.items()}
    return mixed_label(costs.average(bits, weights=True), costs.average(bits, weights=False))


def table_for(table: BitTable, profile: Profile) -> BitTable:
    """Return the table with weights narrowed as a target needs them beside 8-bit activations."""

    def narrowed(pattern: str, width: int) -> int:
        return bits_for(Bits(width, 8), profile).weights if pattern.endswith("weight") else width

    sites = {pattern: narrowed(pattern, width) for pattern, width in table.sites.items()}
    return replace(table, base=bits_for(table.base, profile), sites=sites)
