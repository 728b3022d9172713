"""Tables of an export (what was proven, segment by segment) and of a benchmark."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

from vitq.export.targets import NOT_RUN, Cpu
from vitq.report.units import label, memory, number, percent, score, size

if TYPE_CHECKING:
    from vitq.bench.bench import Measured
    from vitq.export.export import Exported


CPUS = {
    Cpu.ANY: "for every CPU",
    Cpu.VNNI: "for x86 CPUs with VNNI, and CPUs that are not x86",
}


def export_table(result: "Exported") -> Table:
    """Return one row per segment: its codes that differ and its largest relative error, on its own exact input."""
    table = Table(title=f"{result.target}: {size(result.size_bytes)}", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("segment", no_wrap=True)
    table.add_column("quantized sites", justify="right")
    table.add_column("codes that differ", justify="right")
    table.add_column("largest error", justify="right")
    for proof in result.segments:
        table.add_row(escape(proof.name), str(proof.sites), f"{100 * proof.flipped:.2g} %", number(proof.error))
    end = result.end
    if end is None:
        table.caption = NOT_RUN
        return table
    kernels = f"{result.integer_products} products in integer kernels ({result.promised} promised)"
    if result.integer_convolutions or result.promised_convolutions:
        kernels += f", {result.integer_convolutions} convolutions ({result.promised_convolutions} promised)"
    nudged = "for the simulation with itself, inputs scaled by 1 + 1e-6"
    if end.agreement is None:
        near = f"outputs are {number(end.relative_error)} off the simulation's on {end.images} images"
        lines = [kernels, f"{near} ({number(end.self_error)} {nudged})"]
    else:
        same = f"{end.agrees} agrees with the simulation on {end.agreement:.1f} % of {end.images} images"
        lines = [kernels, f"{same} ({percent(end.self_agreement)} {nudged})"]
    for name, (error, own) in (end.outputs or {}).items():
        lines.append(f"output {escape(name)}: {number(error)} off the simulation's ({number(own)} {nudged})")
    if result.cpu is not None:
        lines.append(CPUS[result.cpu])
    if end.top1 is not None:
        lines.append(f"top-1 of the file {percent(end.top1)}, of the simulation {percent(end.simulated_top1)}")
    if end.floating_error is not None:
        accuracy = "" if end.floating_top1 is None else f"top-1 {percent(end.floating_top1)}, "
        lines.append(f"floating-point file: {accuracy}{number(end.floating_error)} off the model itself")
    table.caption = "\n".join(lines)
    return table


def bench_table(rows: Sequence["Measured"], threads: int) -> Table:
    """Return one row per contender: milliseconds a batch, in brackets how many times faster than float32.

    Below stands which one to take, for speed alone: where floating point wins, that is said too.
    """
    title = f"median milliseconds a batch, {threads} thread{'s' if threads > 1 else ''}; in brackets: times float32"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("runtime", no_wrap=True)
    table.add_column("model", no_wrap=True)
    batches = list(rows[0].milliseconds) if rows else []
    metric = next((name for row in rows for name in row.scores), "top1")
    for header in (*(f"batch {batch}" for batch in batches), label(metric), "file", "memory", "integer products"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        times = [f"{row.milliseconds[batch]:.1f} ({row.ratios[batch]:.2f})" for batch in batches]
        table.add_row(
            row.runtime,
            escape(row.name),
            *times,
            score(metric, row.scores.get(metric)),
            size(row.size_bytes),
            memory(row.memory_bytes),
            str(row.integer_products),
        )
    winners = {batch: min(rows, key=lambda row: row.milliseconds[batch]) for batch in batches}
    table.caption = "\n".join(
        f"fastest at batch {batch}: {escape(row.name)} in {row.runtime}" for batch, row in winners.items()
    )
    table.caption_justify = "left"
    return table
