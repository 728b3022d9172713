"""Console tables: what will be quantized, and what came of it."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from vitq.artifact.artifact import Artifact
from vitq.artifact.metrics import RunMetrics
from vitq.bits import FLOATING_POINT
from vitq.calibrate import ScopeRow
from vitq.report.units import agreement, duration, label, memory, number, percent, score, size, size_with_ratio


def scope_table(rows: Sequence[ScopeRow], title: str = "What is quantized") -> Table:
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


def closing_table(artifact: Artifact) -> Table:
    """Return the table that ends a run: original and quantized model side by side; what was not measured is a dash.

    Outputs that are no classes have their distance in place of agreement.
    """
    metrics = artifact.metrics
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("floating point", justify="right")
    table.add_column("quantized", justify="right", style="bold")
    table.add_row("bits", "w32a32", artifact.config.bits)
    outputs = metrics.relative_error is not None or metrics.scores is not None
    for word, before, after in (("top-1", metrics.fp_top1, metrics.top1), ("top-5", metrics.fp_top5, metrics.top5)):
        if not outputs or after is not None:
            table.add_row(word, percent(before), percent(after))
    for name, after in (metrics.scores or {}).items():
        table.add_row(escape(label(name)), score(name, (metrics.fp_scores or {}).get(name)), score(name, after))
    for line, value in nearness_lines(metrics):
        table.add_row(escape(line), "", value)
    for line, value in whole_lines(metrics):
        table.add_row(escape(line), "", value)
    if not outputs or metrics.agreement is not None:
        table.add_row("agreement with floating point", "", agreement(metrics.agreement, metrics.images))
    table.add_row("mean segment error", "", number(metrics.mean_segment_error))
    quantized_size = size_with_ratio(metrics.size_bytes, metrics.fp_size_bytes)
    table.add_row("size on disk", size(metrics.fp_size_bytes), quantized_size)
    table.add_row("time", "", duration(metrics.seconds))
    table.add_row("peak memory", "", memory(metrics.peak_memory_bytes))
    return table


def nearness_lines(metrics: RunMetrics) -> list[tuple[str, str]]:
    """Return how near outputs that are no classes are to the original's: of each where there are several."""
    if metrics.outputs is None:
        if metrics.relative_error is None:
            return []
        error, cosine = number(metrics.relative_error), f"{metrics.cosine:.4f}"
        return [("relative error of the outputs", error), ("cosine with floating point", cosine)]
    return [
        line
        for name, found in metrics.outputs.items()
        for line in (
            (f"relative error of {name}", number(found["relative_error"])),
            (f"cosine of {name} with floating point", f"{found['cosine']:.4f}"),
        )
    ]


def whole_lines(metrics: RunMetrics) -> list[tuple[str, str]]:
    """Return how near the outputs of the whole are to the original's, where a part of it was quantized."""
    return [
        (
            f"whole model, {name}: {WORDS_OF_WHOLE.get(word, word)}",
            percent(value) if word == "agreement" else number(value),
        )
        for name, found in (metrics.whole or {}).items()
        for word, value in found.items()
    ]


WORDS_OF_WHOLE = {"relative_error": "relative error"}


def comparison_table(artifacts: Mapping[str, Artifact], title: str = "") -> Table:
    """Return one row per run, named by the keys; ``error`` is the mean segment error."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False, collapse_padding=True)
    table.add_column("", no_wrap=True)
    for header in ("bits", "top-1", "agreement", "error", "size", "time"):
        table.add_column(header, justify="right", no_wrap=True)
    first = next((artifact.metrics for artifact in artifacts.values()), RunMetrics(images=0))
    table.add_row("floating point", "w32a32", percent(first.fp_top1), "", "", size(first.fp_size_bytes), "")
    for name, artifact in artifacts.items():
        metrics = artifact.metrics
        table.add_row(
            escape(name),
            artifact.config.bits,
            percent(metrics.top1),
            percent(metrics.agreement),
            number(metrics.mean_segment_error),
            size(metrics.size_bytes),
            duration(metrics.seconds),
        )
    return table
