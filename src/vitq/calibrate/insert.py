"""Step ``insert``: put uncalibrated quantizers on the sites of a scope."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from vitq.bits import Bits
from vitq.calibrate.options import SiteBits, SiteFormat
from vitq.calibrate.plan import place, plan_formats
from vitq.calibrate.scope import FULL_ONLY, SCOPES
from vitq.graph import Graph, Role
from vitq.graph.unsupported import find_unsupported, floating_share
from vitq.quantizers import Granularity, Quantizer
from vitq.run.placed import Placed
from vitq.run.step import Step, register_step

if TYPE_CHECKING:
    from vitq.run.run import Run

__all__ = ["Insert", "SiteBits", "SiteFormat", "quantizer_of"]


@register_step("insert")
class Insert(Step):
    """Put a quantizer on every site of the scope; a role without its own format takes ``activation``'s.

    Bits are the run's; ``only`` leaves weights or activations for a later step; ``overrides`` maps globs over site
    names to other bits, the last match wins. The last four roles belong to scope ``full`` and are written out only
    where they have a format of their own.
    """

    unwritten: ClassVar = FULL_ONLY

    scope: Annotated[str, AfterValidator(SCOPES.option)] = "paper"
    only: Literal["all", "weights", "activations"] = "all"
    weight: SiteFormat = SiteFormat(granularity=Granularity.CHANNEL)
    activation: SiteFormat = SiteFormat()
    post_norm: SiteFormat | None = None
    post_activation: SiteFormat | None = None
    query: SiteFormat | None = SiteFormat(granularity=Granularity.HEAD)
    key: SiteFormat | None = SiteFormat(granularity=Granularity.HEAD)
    value: SiteFormat | None = SiteFormat(granularity=Granularity.HEAD)
    probabilities: SiteFormat | None = SiteFormat(granularity=Granularity.HEAD)
    norm_input: SiteFormat | None = None
    softmax_input: SiteFormat | None = None
    activation_input: SiteFormat | None = None
    residual: SiteFormat | None = None
    overrides: dict[str, SiteBits] = Field(default_factory=dict)

    def preview(self, graph: Graph, bits: Bits) -> dict[str, Placed]:
        """Return the plan; RecipeError for an override that names no site, ModelError without any site."""
        return plan_formats(graph, self, bits)

    def apply(self, run: "Run") -> None:
        """Insert into ``run.student`` what the plan says; raises as ``preview`` does."""
        plan = plan_formats(run.student, self, run.bits)
        _warn_of_unsupported(run)
        place(run.student, plan, run.device)
        run.events.log("insert", scope=self.scope, bits=str(run.bits), sites=len(plan))

    def format_of(self, role: Role) -> SiteFormat:
        """Return the format of the sites of ``role``."""
        own: SiteFormat | None = getattr(self, str(role), None)
        return own or self.activation


def _warn_of_unsupported(run: "Run") -> None:
    """Name the operations with weights that no site covers, and what share of the model they are."""
    found = find_unsupported(run.student.module.graph)
    if found and not any(name == "unsupported-operation" for name, _ in run.events.warnings):
        weights, products = floating_share(run.student.module.graph)
        names = ", ".join(f"{entry.operation} ({len(entry.nodes)})" for entry in found)
        run.events.warn(
            "unsupported-operation",
            f"{names}: not supported, so {100 * weights:.1f} % of the weights and about {100 * products:.1f} % of the "
            "multiplications stay in floating point",
        )


def quantizer_of(graph: Graph, site: str) -> Quantizer | None:
    """Return the quantizer on ``site``, None where it stays in floating point."""
    quantizer = graph.quantizers.get(site)
    return quantizer if isinstance(quantizer, Quantizer) else None
