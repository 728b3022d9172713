"""Which format every site gets: a pure plan, made from options, free to be edited, carried out by ``place``."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Protocol

import torch
from torch import fx

from vitq.bits import FLOATING_POINT, Bits
from vitq.calibrate.options import SiteBits, SiteFormat
from vitq.calibrate.scope import roles_of
from vitq.errors import ModelError, RecipeError, did_you_mean
from vitq.graph import Graph, Role, Site
from vitq.graph.ops import CONV, MATMUL, aten, is_op, is_transposed, value
from vitq.quantizers import FORMATS, Format, Granularity, activation_axis, make_quantizer, weight_axis
from vitq.quantizers.granularity import group_shape
from vitq.run.placed import Placed

CHANNELS_FIRST = {
    aten.batch_norm.default,
    aten._native_batch_norm_legit_no_training.default,
    aten.group_norm.default,
    aten.instance_norm.default,
}


class FormatOptions(Protocol):
    """What a plan is made from; step ``insert`` has it."""

    @property
    def scope(self) -> str:
        """Name of a scope."""

    @property
    def only(self) -> str:
        """Which sites of the scope: "all", "weights" or "activations"."""

    @property
    def overrides(self) -> Mapping[str, SiteBits]:
        """Bits by glob over site names; the last match wins."""

    def format_of(self, role: Role) -> SiteFormat:
        """Return the format of the sites of ``role``."""


def plan_formats(graph: Graph, options: FormatOptions, bits: Bits) -> dict[str, Placed]:
    """Return what each site of the options' scope gets, in the graph's order; sites left in floating point are absent.

    RecipeError for an override that names no site and for a format that cannot hold a site's values, ModelError for a
    model without a linear, a convolution or a matmul.
    """
    if not any(site.of_product for site in graph.sites.values()):
        raise ModelError("the model has no linear, convolution or matmul, so there is nothing to quantize")
    roles = roles_of(options.scope)
    readers = {name: site.readers(roles) for name, site in graph.sites.items()}
    names = [name for name, operations in readers.items() if operations]
    for pattern in options.overrides:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise RecipeError(f"insert.overrides: no site matches '{pattern}'{did_you_mean(pattern, names)}")
    nodes = {node.name: node for node in graph.module.graph.nodes}
    plan: dict[str, Placed] = {}
    for site in (graph.sites[name] for name in names):
        if options.only != "all" and site.is_weight != (options.only == "weights"):
            continue
        own = _bits(site, options.overrides, bits.weights if site.is_weight else bits.activations)
        if own != FLOATING_POINT:
            form, axis = _format(site, options.format_of(site.role), own, nodes)
            plan[site.name] = Placed(form, axis, readers[site.name])
    return plan


def place(graph: Graph, plan: Mapping[str, Placed], device: torch.device) -> None:
    """Put an uncalibrated quantizer on every site of ``plan``; GraphError for a site that is not there or has one."""
    quantizers = {}
    for name, placed in plan.items():
        quantizers[name] = make_quantizer(placed.format, placed.axis).to(device)
        quantizers[name].site = name
    graph.insert(quantizers, {name: placed.readers for name, placed in plan.items()})


def _bits(site: Site, overrides: Mapping[str, SiteBits], default: int) -> int:
    """Return the bits of the last override that names ``site``, else the run's."""
    named = [entry.bits for pattern, entry in overrides.items() if fnmatchcase(site.name, pattern)]
    return named[-1] if named else default


def _format(site: Site, wanted: SiteFormat, bits: int, nodes: Mapping[str, fx.Node]) -> tuple[Format, int | None]:
    axis = _axis(site, wanted.granularity, nodes)
    form = wanted.at(bits, Granularity.TENSOR if axis is None else wanted.granularity)
    codec = FORMATS[form.name]
    if codec.weights_only and not site.is_weight:
        raise RecipeError(
            f"insert.{site.role}.format: '{form.name}' is a format of weights alone, and '{site.name}' is an "
            "activation; take affine"
        )
    if site.is_weight and not codec.signed:
        raise RecipeError(
            f"insert.{site.role}.format: '{form.name}' has no negative values, and the weights of "
            f"'{site.name}' have both signs; take affine"
        )
    return form, axis


def _axis(site: Site, granularity: Granularity, nodes: Mapping[str, fx.Node]) -> int | None:
    """Return the axis with parameters of its own; None (per tensor) where none of fixed size exists."""
    source, consumer = nodes[site.node], nodes[site.consumers[0]]
    shape = value(source).shape
    if site.is_weight:
        axis = weight_axis(granularity)
        if granularity.size:
            _require_groups(site, consumer, shape, granularity.size)
        if axis is not None and is_op(consumer, MATMUL):
            return -2 if consumer.args[0] is source else -1
        return axis if axis is None or not is_transposed(consumer) else 1 - len(shape)
    axis = activation_axis(granularity)
    if granularity == Granularity.CHANNEL and (is_op(consumer, CONV) or (not site.of_product and _is_map(source))):
        axis = 1 - len(shape)
    if axis is None or len(shape) < -axis + (granularity == Granularity.HEAD):
        return None
    return axis if isinstance(shape[axis], int) else None


def _require_groups(site: Site, consumer: fx.Node, shape: Sequence[int], size: int) -> None:
    """Raise RecipeError where a weight has no groups of ``size`` inputs for each output."""
    where = "or give its role another granularity, or leave it in floating point by insert.overrides"
    if is_op(consumer, MATMUL) or is_transposed(consumer):
        raise RecipeError(f"insert.weight.granularity: the inputs of '{site.name}' do not lie in groups; {where}")
    try:
        group_shape(shape, size)
    except RecipeError as error:
        raise RecipeError(f"insert.weight.granularity: '{site.name}': {error}, {where}") from error


def _is_map(tensor: fx.Node) -> bool:
    """Tell whether a tensor that no product reads comes straight from what puts channels first."""
    maker = tensor.all_input_nodes[0] if getattr(tensor.target, "__name__", "") == "getitem" else tensor
    return value(tensor).ndim == 4 and is_op(maker, CONV | CHANNELS_FIRST)
