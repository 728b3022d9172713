"""Scope: which roles a run quantizes, as an allow-list, and the table that says so."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

from vitq.errors import RecipeError, did_you_mean
from vitq.graph import Graph, Role
from vitq.graph.unsupported import find_unsupported
from vitq.quantizers import Format, Quantizer
from vitq.registry import Registry

OPERANDS = frozenset({Role.WEIGHT, Role.POST_NORM, Role.POST_ACTIVATION, Role.OTHER})
ATTENTION = frozenset({Role.QUERY, Role.KEY, Role.VALUE, Role.PROBABILITIES})
FULL_ONLY = frozenset({Role.NORM_INPUT, Role.SOFTMAX_INPUT, Role.ACTIVATION_INPUT, Role.RESIDUAL})
"""Roles of tensors that no product reads."""

Roles = Collection[Role | str]
RolesType = TypeVar("RolesType", bound=Callable[[], Roles])
SCOPES: Registry[frozenset[Role]] = Registry("scope", frozenset)
"""Per scope the roles that it quantizes; a role that is in none stays in floating point."""

NOT_SUPPORTED = "floating point, not supported"


def register_scope(name: str) -> Callable[[RolesType], RolesType]:
    """Register the roles that a function returns; RecipeError where the name is taken or a role does not exist."""
    return SCOPES.register(name, lambda roles: _known(name, roles()))


def _known(scope: str, roles: Roles) -> frozenset[Role]:
    known = [str(role) for role in Role]
    for role in roles:
        if role not in known:
            raise RecipeError(f"scope '{scope}': role '{role}' does not exist{did_you_mean(str(role), known)}")
    return frozenset(Role(role) for role in roles)


@register_scope("paper")
def _paper() -> Roles:
    """Every operand of linear, conv and matmul but the image."""
    return OPERANDS | ATTENTION


@register_scope("deploy")
def _deploy() -> Roles:
    """Attention products stay in floating point.

    Integer ones are slower in OpenVINO and gain ONNX Runtime little (benchmarks/attention.md).
    """
    return OPERANDS


@register_scope("full")
def _full() -> Roles:
    """Also what norms, softmax and activation functions read, and both operands of residual sums.

    Fully quantized models have it so (FQ-ViT, I-ViT).
    """
    return OPERANDS | ATTENTION | FULL_ONLY


def roles_of(scope: str) -> frozenset[Role]:
    """Return the roles that ``scope`` quantizes; RecipeError for an unknown scope."""
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
