"""Lowering: the student graph with each quantizer written as operations that a runtime knows."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import fx

from vitq.errors import ExportError
from vitq.export.apart import lower_apart
from vitq.export.joined import keep_order
from vitq.export.lowerings import LOWERINGS, operation_of, refusal
from vitq.export.saturation import NONE, Overflow
from vitq.export.targets import Carrier, Profile
from vitq.export.weights import constant, lower_weight
from vitq.graph import Graph, Site
from vitq.graph.edit import replace
from vitq.quantizers import Quantizer


@dataclass(frozen=True)
class Lowered:
    """The lowered module, and what to look for in the file: path of weight codes."""

    module: fx.GraphModule
    weight_codes: Mapping[str, int]
    """Bits of each weight's codes, by the name of its buffer."""
    folding: frozenset[str] = frozenset()
    """Those of ``weight_codes`` that no integer kernel reads: torch's exporter writes small ones as values."""


def refusals(graph: Graph, weights: Mapping[str, Quantizer], profile: Profile) -> list[str]:
    """Return a line for every site that ``profile`` cannot carry: which, and why."""
    lines: list[str] = []
    for name, site in graph.sites.items():
        quantizer = weights.get(name) or graph.quantizers.get(name)
        if isinstance(quantizer, Quantizer):
            reason = refusal_of(site, quantizer, profile)
            if reason:
                lines.append(f"{name}: {reason}")
    return lines


def refusal_of(site: Site, quantizer: Quantizer, profile: Profile) -> str:
    """Return why ``profile`` cannot carry a site's quantizer; nothing where it can."""
    form = quantizer.format
    if reason := refusal(quantizer, site.is_weight):
        return reason
    if profile.carrier is Carrier.INT8 and not site.is_weight and not form.symmetric:
        return f"{profile.name} takes symmetric activations only; quantize with --target {profile.name}"
    if profile.formats is not None and form.name not in profile.formats:
        return f"{profile.name} has no kernel for format '{form.name}'"
    return ""


def lower(
    graph: Graph,
    weights: Mapping[str, Quantizer],
    carrier: Carrier = Carrier.UINT8,
    overflow: Overflow = NONE,
) -> Lowered:
    """Return a copy of ``graph`` in which quantizers are vitq's export operations; ``graph`` stays as it is.

    ``overflow`` is written so that it cannot: its weights as uint8, all others as int8, its activations in floating
    point. Raises ExportError for a quantizer without a lowering.
    """
    module = copy.deepcopy(graph.module)
    targets = {id(m): path for path, m in graph.module.named_modules()}
    calls = {node.target: node for node in module.graph.nodes if node.op == "call_module"}
    nodes = {node.name: node for node in module.graph.nodes}
    for name, quantizer in graph.quantizers.items():
        assert isinstance(quantizer, Quantizer)
        call = calls[targets[id(quantizer)]]
        _activation(module, call, name, quantizer, None if name in overflow.activations else carrier)
    codes: dict[str, int] = {}
    folding: set[str] = set()
    for name in (name for name in graph.sites if name in weights):  # an order that loading does not change
        source = nodes[graph.sites[name].node]
        found = lower_weight(module, source, weights[name], graph.cuts, name in overflow.weights)
        codes |= found
        folding.update(found if weights[name].integer_view() is None else ())
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return Lowered(module, codes, frozenset(folding))


def _activation(
    module: fx.GraphModule, node: fx.Node, site: str, quantizer: Quantizer, carrier: Carrier | None
) -> None:
    """Write a quantizer, in floating point where its values are no integers of one scale, or without a ``carrier``."""
    if reason := refusal(quantizer, is_weight=False):
        raise ExportError(f"site '{site}': {reason}")
    keep_order(module, node)
    if quantizer.outliers is not None:
        lower_apart(module, node, quantizer, partial(_write, module, carrier))
        return
    source = node.args[0]
    assert isinstance(source, fx.Node)
    replace(module, node, _write(module, carrier, quantizer, source, node, node.name))


def _write(
    module: fx.GraphModule, carrier: Carrier | None, quantizer: Quantizer, source: fx.Node, before: fx.Node, name: str
) -> fx.Node:
    """Write what a quantizer with one kind of tokens makes of ``source``."""
    lowering = LOWERINGS[quantizer.format.name]
    if carrier is None or not quantizer.has_integer_values:
        lowering = lowering.floating or lowering
    elif carrier is Carrier.INT8:
        lowering = lowering.signed or lowering
    given = [
        constant(module, f"{name}_{i}", a, before) if isinstance(a, torch.Tensor) else a
        for i, a in enumerate(lowering.arguments(quantizer, quantizer.parameters_dict()))
    ]
    with module.graph.inserting_before(before):
        new = module.graph.call_function(operation_of(lowering.operation), (source, *given))
    new.meta = dict(source.meta)
    return new
