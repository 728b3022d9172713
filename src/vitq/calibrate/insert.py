"""Step ``insert``: put uncalibrated quantizers on the sites of a scope."""

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import fx

from vitq.bits import FLOATING_POINT
from vitq.calibrate.scope import scope_sites
from vitq.errors import ModelError, RecipeError, did_you_mean
from vitq.graph import Graph, Role, Site
from vitq.graph.ops import CONV, MATMUL, is_op, is_transposed, value
from vitq.graph.unsupported import find_unsupported, floating_share
from vitq.quantizers import (
    FORMATS,
    Format,
    Granularity,
    Quantizer,
    activation_axis,
    make_quantizer,
    weight_axis,
)
from vitq.run.step import Step, register_step

if TYPE_CHECKING:
    from vitq.run.run import Run


class SiteFormat(BaseModel):
    """Number format of the sites of one role; its bits come from the run.

    ``from_bits`` names other formats for more bits ({6: piecewise, 7: affine}): more bits widen a logarithm's range
    but never its step of a factor 2, and what beats affine codes at few bits gains little at eight.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = "affine"
    from_bits: dict[int, str] = Field(default_factory=dict)
    granularity: Granularity = Granularity.TENSOR
    symmetric: bool = False

    @field_validator("format", "from_bits")
    @classmethod
    def _known(cls, names: str | dict[int, str]) -> str | dict[int, str]:
        for name in [names] if isinstance(names, str) else names.values():
            FORMATS.option(name)
        return names

    def at(self, bits: int, granularity: Granularity) -> Format:
        """Return the format with ``bits``, at the granularity that the site's tensor allows."""
        names = {0: self.format, **self.from_bits}
        return Format(names[max(least for least in names if least <= bits)], bits, granularity, self.symmetric)


class SiteBits(BaseModel):
    """Bits of the sites that a glob names; 32 leaves them in floating point."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bits: int = Field(ge=2, le=FLOATING_POINT)

    @field_validator("bits")
    @classmethod
    def _width(cls, bits: int) -> int:
        if not (bits <= 8 or bits == FLOATING_POINT):
            raise ValueError("a quantizer has 2 to 8 bits; 32 leaves floating point")
        return bits


@register_step("insert")
class Insert(Step):
    """Put a quantizer on every site of the scope; a role without its own format takes ``activation``'s.

    Bits are the run's; ``only`` leaves weights or activations for a later step; ``overrides`` maps globs over site
    names to other bits, the last match wins.
    """

    scope: Literal["paper", "deploy"] = "paper"
    only: Literal["all", "weights", "activations"] = "all"
    weight: SiteFormat = SiteFormat(granularity=Granularity.CHANNEL)
    activation: SiteFormat = SiteFormat()
    post_norm: SiteFormat | None = None
    post_activation: SiteFormat | None = None
    query: SiteFormat | None = SiteFormat(granularity=Granularity.HEAD)
    key: SiteFormat | None = SiteFormat(granularity=Granularity.HEAD)
    value: SiteFormat | None = SiteFormat(granularity=Granularity.HEAD)
    probabilities: SiteFormat | None = SiteFormat(granularity=Granularity.HEAD)
    overrides: dict[str, SiteBits] = Field(default_factory=dict)

    def apply(self, run: "Run") -> None:
        """Insert into ``run.student``; RecipeError for an override that names no site, ModelError without any site."""
        if not run.student.sites:
            raise ModelError("the model has no linear, convolution or matmul, so there is nothing to quantize")
        _warn_of_unsupported(run)
        sites = scope_sites(run.student, self.scope)
        for pattern in self.overrides:
            if not any(fnmatchcase(site.name, pattern) for site in sites):
                names = [site.name for site in sites]
                hint = did_you_mean(pattern, names)
                raise RecipeError(f"insert.overrides: no site matches '{pattern}'{hint}")
        nodes = {node.name: node for node in run.student.module.graph.nodes}
        quantizers: dict[str, Quantizer] = {}
        for site in sites:
            if self.only != "all" and site.is_weight != (self.only == "weights"):
                continue
            bits = self._bits(site, run.bits.weights if site.is_weight else run.bits.activations)
            if bits != FLOATING_POINT:
                quantizers[site.name] = self._quantizer(site, bits, nodes).to(run.device)
        run.student.insert(quantizers)
        run.events.log("insert", scope=self.scope, bits=str(run.bits), sites=len(quantizers))

    def format_of(self, role: Role) -> SiteFormat:
        """Return the format of the sites of ``role``."""
        own: SiteFormat | None = getattr(self, str(role), None)
        return own or self.activation

    def _bits(self, site: Site, default: int) -> int:
        """Return the bits of the last override that names ``site``, else the run's."""
        named = [entry.bits for pattern, entry in self.overrides.items() if fnmatchcase(site.name, pattern)]
        return named[-1] if named else default

    def _quantizer(self, site: Site, bits: int, nodes: dict[str, fx.Node]) -> Quantizer:
        wanted = self.format_of(site.role)
        axis = _axis(site, wanted.granularity, nodes)
        granularity = Granularity.TENSOR if axis is None else wanted.granularity
        quantizer = make_quantizer(wanted.at(bits, granularity), axis)
        if site.is_weight and not quantizer.signed:
            raise RecipeError(
                f"insert.{site.role}.format: '{quantizer.format.name}' has no negative values, and the weights of "
                f"'{site.name}' have both signs; take affine"
            )
        quantizer.site = site.name
        return quantizer


def _axis(site: Site, granularity: Granularity, nodes: dict[str, fx.Node]) -> int | None:
    """Return the axis with parameters of its own; None (per tensor) where none of fixed size exists."""
    source, consumer = nodes[site.node], nodes[site.consumers[0]]
    shape = value(source).shape
    if site.is_weight:
        axis = weight_axis(granularity)
        if axis is not None and is_op(consumer, MATMUL):
            return -2 if consumer.args[0] is source else -1
        return axis if axis is None or not is_transposed(consumer) else 1 - len(shape)
    axis = activation_axis(granularity)
    if granularity is Granularity.CHANNEL and is_op(consumer, CONV):
        axis = 1 - len(shape)
    if axis is None or len(shape) < -axis + (granularity is Granularity.HEAD):
        return None
    return axis if isinstance(shape[axis], int) else None


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
