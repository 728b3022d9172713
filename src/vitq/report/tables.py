"""Console tables: what will be quantized, and what came of it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table

from vitq.bits import FLOATING_POINT
from vitq.report.units import agreement, duration, memory, number, percent, size, size_with_ratio

if TYPE_CHECKING:
    from vitq.calibrate import ScopeRow


def scope_table(rows: Sequence["ScopeRow"], title: str = "What is quantized") -> Table:
    """Return the table that is shown before a run, from ``vitq.calibrate.scope_rows``."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False, collapse_padding=True)
    table.add_column("role", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    table.add_column("sites", justify="right", no_wrap=True, min_width=5)
    table.add_column("format", no_wrap=True)
    table.add_column("bits", justify="right", no_wrap=True, min_width=4)
    table.add_column("scale per", no_wrap=True)
    table.add_column("example", overflow="fold")  # the one column that gives way
    for row in rows:
        floating = row.bits == FLOATING_POINT
        cells = (
            row.role,
            row.kind,
            str(row.sites),
            row.format,
            str(row.bits),
            row.granularity,
            escape(row.example),
        )
        table.add_row(*cells, style="dim" if floating else None)
    quantized = sum(row.sites for row in rows if row.bits != FLOATING_POINT)
    table.caption = f"{quantized} of {sum(row.sites for row in rows)} sites quantized"
    return table


def closing_table(result: Mapping[str, Any]) -> Table:
    """Return the table that ends a run; what ``result`` lacks, or holds as None, shows as a dash.

    Keys: ``bits``; ``fp_top1``, ``fp_top5``, ``top1``, ``top5`` and ``agreement`` (with the floating-point
    model) in percent; ``relative_error`` and ``cosine`` of outputs that are no classes, which leave out what is
    absent of these; ``images`` (how many these are measured on); ``mean_segment_error``; ``size_bytes`` and
    ``fp_size_bytes`` on disk; ``seconds``; ``peak_memory_bytes``.
    """
    get = result.get
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("floating point", justify="right")
    table.add_column("quantized", justify="right", style="bold")
    table.add_row("bits", "w32a32", str(get("bits") or "-"))
    outputs = get("relative_error") is not None
    for label, key in (("top-1", "top1"), ("top-5", "top5")):
        if not outputs or get(key) is not None:
            table.add_row(label, percent(get(f"fp_{key}")), percent(get(key)))
    if outputs:
        table.add_row("relative error of the outputs", "", number(get("relative_error")))
        table.add_row("cosine with floating point", "", f"{get('cosine'):.4f}")
    else:
        table.add_row("agreement with floating point", "", agreement(get("agreement"), get("images")))
    table.add_row("mean segment error", "", number(get("mean_segment_error")))
    quantized_size = size_with_ratio(get("size_bytes"), get("fp_size_bytes"))
    table.add_row("size on disk", size(get("fp_size_bytes")), quantized_size)
    table.add_row("time", "", duration(get("seconds")))
    table.add_row("peak memory", "", memory(get("peak_memory_bytes")))
    return table


def comparison_table(results: Mapping[str, Mapping[str, Any]], title: str = "") -> Table:
    """Return one row per run, named by the keys, from mappings as ``closing_table`` reads them.

    ``error`` is the mean segment error.
    """
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False, collapse_padding=True)
    table.add_column("", no_wrap=True)
    for header in ("bits", "top-1", "agreement", "error", "size", "time"):
        table.add_column(header, justify="right", no_wrap=True)
    first: Mapping[str, Any] = next(iter(results.values()), {})
    table.add_row(
        "floating point",
        "w32a32",
        percent(first.get("fp_top1")),
        "",
        "",
        size(first.get("fp_size_bytes")),
        "",
    )
    for name, result in results.items():
        table.add_row(
            escape(name),
            str(result.get("bits") or "-"),
            percent(result.get("top1")),
            percent(result.get("agreement")),
            number(result.get("mean_segment_error")),
            size(result.get("size_bytes")),
            duration(result.get("seconds")),
        )
    return table
