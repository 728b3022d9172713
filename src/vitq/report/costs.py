"""The table of what a model's sites cost."""

from collections.abc import Sequence

import torch
from rich import box
from rich.markup import escape
from rich.table import Table

from vitq.allocate import Costs, site_costs
from vitq.bits import FLOATING_POINT
from vitq.calibrate.scope import roles_of
from vitq.report.units import size
from vitq.run.inputs import capture_checked, load_source

UNIFORM = 8
"""Bits of the caption's totals."""


def model_costs(model: str, scope: str) -> tuple[Costs, tuple[str, ...]]:
    """Return the costs of a model's sites and the names of those that ``scope`` quantizes; weights are drawn."""
    roles = roles_of(scope)
    loaded = load_source(model, "random", None, None)
    x_2CHW = torch.zeros(2, *loaded.preprocessing.input_size)
    graph = capture_checked(loaded, x_2CHW, torch.device("cpu"))
    return site_costs(graph), tuple(name for name, site in graph.sites.items() if site.readers(roles))


def costs_table(costs: Costs, names: Sequence[str], title: str) -> Table:
    """Return one row per site, and totals: multiply-accumulates, parameters, bit operations at eight bits."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False, collapse_padding=True)
    table.add_column("site", no_wrap=True)
    table.add_column("role", no_wrap=True)
    for header in ("parameters", "elements per image", "MMAC per image", "bytes at 8 bits"):
        table.add_column(header, justify="right", no_wrap=True)
    for site in (costs.sites[name] for name in names):
        weight, activation = (f"{site.elements:,}", "") if site.is_weight else ("", f"{site.elements:,}")
        stored = size(site.elements) if site.is_weight else ""
        table.add_row(escape(site.name), site.role, weight, activation, f"{site.macs / 1e6:,.2f}", stored)
    parameters = sum(costs.sites[name].elements for name in names if costs.sites[name].is_weight)
    elements = sum(costs.sites[name].elements for name in names if not costs.sites[name].is_weight)
    operations = costs.bit_operations(dict.fromkeys(names, UNIFORM))
    floating = costs.bit_operations(dict.fromkeys(names, FLOATING_POINT))
    table.caption = (
        f"{len(names)} sites; {parameters:,} parameters, {elements:,} elements and {costs.macs / 1e6:,.1f} MMAC per "
        f"image; bit operations {operations:.4g} at w8a8, {floating:.4g} in floating point"
    )
    return table
