"""Bits over depth by role: what a heat map shows, one row per kind of site, one column per block."""

from collections.abc import Mapping
from dataclasses import dataclass

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from vitq.bits import FLOATING_POINT

STYLES = {2: "red", 3: "yellow", 4: "green", 5: "cyan", 6: "blue", 7: "magenta", 8: "magenta", FLOATING_POINT: "dim"}
FEWEST, MOST = 2, 8


@dataclass(frozen=True)
class Cell:
    """One site: its name, its bits, and how strong its colour is, 0 to 1."""

    site: str
    bits: int
    strength: float


@dataclass(frozen=True)
class Row:
    """The sites of one kind in the order of their blocks, None where a block has none."""

    kind: str
    cells: tuple[Cell | None, ...]


def heat_rows(bits: Mapping[str, int], blocks: Mapping[str, str]) -> tuple[Row, ...]:
    """Return one row per kind: the sites that have the same name inside their blocks; the others are rows alone."""
    inside = {site: _inside(site, blocks[site]) for site in bits if site in blocks}
    columns = list(dict.fromkeys(blocks[site] for site, kind in inside.items() if kind))
    kinds: dict[str, dict[str, Cell]] = {}
    for site, width in bits.items():
        kind = inside.get(site, "")
        kinds.setdefault(kind or site, {})[blocks[site] if kind else ""] = Cell(site, width, _strength(width))
    return tuple(
        Row(kind, tuple(cells.get(column) for column in columns) if "" not in cells else (cells[""],))
        for kind, cells in kinds.items()
    )


def is_mixed(bits: Mapping[str, int], weights: set[str]) -> bool:
    """Tell whether sites of one kind (weights, activations) have different bits."""
    return any(len({width for site, width in bits.items() if (site in weights) == own}) > 1 for own in (True, False))


def heat_table(rows: tuple[Row, ...], title: str = "Bits over depth") -> Table:
    """Return the rows as a table for a terminal."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False, collapse_padding=True)
    table.add_column("sites", no_wrap=True)
    table.add_column("bits, first block to last", overflow="fold")
    for row in rows:
        digits = Text()
        for cell in row.cells:
            digits.append("· " if cell is None else f"{cell.bits} ", style=None if cell is None else STYLES[cell.bits])
        table.add_row(escape(row.kind), digits)
    return table


def _inside(site: str, block: str) -> str:
    for mark in (".", "/"):
        if block and site.startswith(block + mark):
            return site.removeprefix(block + mark)
    return ""


def _strength(bits: int) -> float:
    return 1.0 if bits > MOST else round((bits - FEWEST) / (MOST - FEWEST), 3)
