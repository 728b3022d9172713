"""Scope: which sites a run quantizes, and the table that says so."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vitq.errors import RecipeError, did_you_mean
from vitq.graph import Graph, Role, Site
from vitq.graph.unsupported import find_unsupported
from vitq.quantizers import Quantizer

SCOPES: Mapping[str, Callable[[Site], bool]] = {
    "paper": lambda site: site.role is not Role.IMAGE,
    "deploy": lambda site: site.role not in (Role.IMAGE, Role.QUERY, Role.KEY, Role.VALUE, Role.PROBABILITIES),
}
"""Per scope, whether it holds a site.

paper: every operand of linear, conv and matmul but the image. deploy: attention products stay in floating point, as
integer ones are slower in OpenVINO and gain ONNX Runtime little (benchmarks/deploy.md).
"""


NOT_SUPPORTED = "floating point, not supported"


@dataclass(frozen=True)
class ScopeRow:
    """One line of the scope table: sites of one role treated alike; ``bits`` 32 is floating point."""

    role: str
    kind: str
    sites: int
    format: str
    bits: int
    granularity: str
    example: str


def scope_sites(graph: Graph, scope: str) -> tuple[Site, ...]:
    """Return the sites of ``scope`` in graph order; RecipeError for an unknown scope."""
    if scope not in SCOPES:
        raise RecipeError(f"scope '{scope}' does not exist{did_you_mean(scope, SCOPES)}")
    return tuple(site for site in graph.sites.values() if SCOPES[scope](site))


def scope_rows(graph: Graph, frozen: Mapping[str, Quantizer] | None = None) -> tuple[ScopeRow, ...]:
    """Return what ``graph`` quantizes and what it leaves, grouped by role, format, bits and granularity.

    ``frozen`` holds the quantizers of weights that already carry the values of their codes.
    """
    groups: dict[tuple[str, str, str, int, str], list[str]] = {}
    for site in graph.sites.values():
        kind = "weight" if site.is_weight else "activation"
        quantizer = (frozen or {}).get(site.name) or graph.quantizers.get(site.name)
        if isinstance(quantizer, Quantizer):
            form = quantizer.format
            name = f"{form.name} symmetric" if form.symmetric else form.name
            key = (str(site.role), kind, name, form.bits, str(form.granularity))
        else:
            key = (str(site.role), kind, "floating point", 32, "-")
        groups.setdefault(key, []).append(site.name)
    sited = tuple(
        ScopeRow(role, kind, len(names), name, bits, granularity, names[0])
        for (role, kind, name, bits, granularity), names in groups.items()
    )
    return sited + tuple(
        ScopeRow(entry.operation, "operation", len(entry.nodes), NOT_SUPPORTED, 32, "-", entry.nodes[0])
        for entry in find_unsupported(graph.module.graph)
    )
