"""Heat maps of a page over blocks and roles: bits with their formats, and errors or other numbers of sites."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log10

from vitq.artifact.artifact import Artifact
from vitq.evidence import SiteError
from vitq.evidence.sites import tokens_apart
from vitq.quantizers import Quantizer
from vitq.report.heat import heat_rows
from vitq.report.units import number


@dataclass(frozen=True)
class Cell:
    """One site: what stands in its cell, what is said of it, and how strong its colour is, 0 to 1."""

    text: str
    title: str
    strength: float


@dataclass(frozen=True)
class Row:
    """The sites of one kind in the order of their blocks, None where a block has none, and a note beside them."""

    kind: str
    cells: tuple[Cell | None, ...]
    note: str = ""


def bits_map(artifact: Artifact) -> tuple[Row, ...]:
    """Return the bits of every quantized site, beside them the formats of each row."""
    graph = artifact.graph
    held = {**graph.quantizers, **artifact.weights}
    quantizers = {name: q for name in graph.sites if isinstance(q := held.get(name), Quantizer)}
    words = {name: _format(quantizer) for name, quantizer in quantizers.items()}
    rows = heat_rows({name: q.format.bits for name, q in quantizers.items()}, graph.blocks())
    return tuple(
        Row(
            row.kind,
            tuple(
                None
                if cell is None
                else Cell(str(cell.bits), f"{cell.site}: {cell.bits} bits, {words[cell.site]}", cell.strength)
                for cell in row.cells
            ),
            ", ".join(dict.fromkeys(words[cell.site] for cell in row.cells if cell is not None)),
        )
        for row in rows
    )


def number_map(values: Mapping[str, float], blocks: Mapping[str, str], words: Mapping[str, str]) -> tuple[Row, ...]:
    """Return a number of every site, stronger by powers of ten, none below 0; ``words`` are said of each."""
    positive = [value for value in values.values() if value > 0]
    low, high = (log10(end) for end in (min(positive), max(positive))) if positive else (0.0, 0.0)
    low = max(low, high - 3)

    def cell(site: str) -> Cell:
        value = values[site]
        strength = 0.0 if value <= 0 else min(max((log10(value) - low) / max(high - low, 1e-9), 0.0), 1.0)
        return Cell(_short(value), f"{site}: {number(value)} {words.get(site, '')}".strip(), round(strength, 3))

    rows = heat_rows(dict.fromkeys(values, 8), blocks)
    return tuple(Row(row.kind, tuple(None if one is None else cell(one.site) for one in row.cells)) for row in rows)


def error_map(sites: tuple[SiteError, ...]) -> tuple[Row, ...]:
    """Return the error of every site, in hundredths of its energy."""
    errors = {site.site: 100 * site.error for site in sites}
    words = {site.site: f"% of its energy, {site.bits} bits {site.format}" for site in sites}
    return number_map(errors, {site.site: site.block for site in sites}, words)


def _format(quantizer: Quantizer) -> str:
    form = quantizer.format
    return f"{form.name}{' symmetric' if form.symmetric else ''} per {form.granularity}{tokens_apart(quantizer)}"


def _short(value: float) -> str:
    """Return a number for a narrow cell: two digits."""
    if value >= 9.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 0.095 else f"{value:.2f}" if value >= 0.00995 else "0"
