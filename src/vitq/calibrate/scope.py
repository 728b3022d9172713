"""Scope: which roles a run quantizes, as an allow-list, and the table that says so."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from vitq.errors import RecipeError, did_you_mean
from vitq.graph import Graph, Role
from vitq.graph.unsupported import find_unsupported
from vitq.quantizers import Format, Quantizer

OPERANDS = frozenset({Role.WEIGHT, Role.POST_NORM, Role.POST_ACTIVATION, Role.OTHER})
ATTENTION = frozenset({Role.QUERY, Role.KEY, Role.VALUE, Role.PROBABILITIES})
FULL_ONLY = frozenset({Role.NORM_INPUT, Role.SOFTMAX_INPUT, Role.ACTIVATION_INPUT, Role.RESIDUAL})
"""Roles of tensors that no product reads."""

SCOPES: dict[str, frozenset[Role]] = {
    "paper": OPERANDS | ATTENTION,
    "deploy": OPERANDS,
    "full": OPERANDS | ATTENTION | FULL_ONLY,
}
"""Per scope the roles that it quantizes; a role that is in none stays in floating point.

paper: every operand of linear, conv and matmul but the image. deploy: attention products stay in floating point, as
integer ones are slower in OpenVINO and gain ONNX Runtime little (benchmarks/deploy.md). full: also what norms, softmax
and activation functions read, and both operands of residual sums, as fully quantized models have it (FQ-ViT, I-ViT).
"""

NOT_SUPPORTED = "floating point, not supported"


def register_scope(name: str, roles: Collection[Role | str]) -> None:
    """Let recipes name a scope of these ``roles``; RecipeError where the name is taken or a role does not exist."""
    if name in SCOPES:
        raise RecipeError(f"scope '{name}' is already registered; choose another name")
    known = [str(role) for role in Role]
    for role in roles:
        if role not in known:
            raise RecipeError(f"scope '{name}': role '{role}' does not exist{did_you_mean(str(role), known)}")
    SCOPES[name] = frozenset(Role(role) for role in roles)


def roles_of(scope: str) -> frozenset[Role]:
    """Return the roles that ``scope`` quantizes; RecipeError for an unknown scope."""
    if scope not in SCOPES:
        raise RecipeError(f"scope '{scope}' does not exist{did_you_mean(scope, SCOPES)}")
    return SCOPES[scope]


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


def scope_rows(
    graph: Graph, frozen: Mapping[str, Quantizer] | None = None, planned: Mapping[str, Format] | None = None
) -> tuple[ScopeRow, ...]:
    """Return what ``graph`` quantizes and what it leaves, grouped by role, format, bits and granularity.

    ``frozen`` holds the quantizers of weights that already carry the values of their codes, ``planned`` the formats
    of sites that are still to get a quantizer. Sites that no product reads are listed where one of them is quantized.
    """
    held = {name: q.format for name, q in {**graph.quantizers, **(frozen or {})}.items() if isinstance(q, Quantizer)}
    formats = {**held, **(planned or {})}
    everything = any(not graph.sites[name].of_product for name in formats)
    groups: dict[tuple[str, str, str, int, str], list[str]] = {}
    for site in graph.sites.values():
        if not (site.of_product or everything):
            continue
        kind, form = "weight" if site.is_weight else "activation", formats.get(site.name)
        if form is not None:
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
