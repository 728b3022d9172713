"""Table of an export: what was proven, segment by segment."""

from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

from vitq.report.units import number, size

if TYPE_CHECKING:
    from vitq.export import Exported


def export_table(result: "Exported") -> Table:
    """Return one row per segment: its codes that differ and its largest relative error, on its own exact input."""
    table = Table(title=f"{result.target}: {size(result.size_bytes)}", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("segment", no_wrap=True)
    table.add_column("quantized sites", justify="right")
    table.add_column("codes that differ", justify="right")
    table.add_column("largest error", justify="right")
    for proof in result.segments:
        table.add_row(escape(proof.name), str(proof.sites), f"{100 * proof.flipped:.2g} %", number(proof.error))
    if result.agreement is None:
        table.caption = "not run: no runtime for this target here"
        return table
    kernels = f"{result.integer_products} products in integer kernels ({result.promised} promised)"
    table.caption = f"{kernels}; top-1 agrees with the simulation on {result.agreement:.1f} % of {result.images} images"
    return table
