"""Draw a table that another script prints: bars of some of its columns, a group for each row.

    python benchmarks/bars.py figure --of "benchmarks/mptq.py table" --columns "DeiT-Tiny W4A4" --y "top-1, %" \\
        --name mptq --title "Calibration alone"

The table is the first one that has these columns. A cell such as "71.4 / 0.370" or "30.2 (1.00)" has parts:
``--part 1`` is the second. Rows that lack one of the numbers are left out.
"""

import argparse
import re
from collections.abc import Sequence
from textwrap import fill

from chart import Chart, Series, keep
from pages import printed

NUMBER, PARTS = re.compile(r"-?\d*\.?\d+(?:e-?\d+)?"), re.compile(r" / | \(")
WIDTH = 14
"""Letters of a line below a bar."""


def tables(text: str) -> list[list[list[str]]]:
    """Return the Markdown tables of a text: rows of cells, the heads first."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if not line.startswith("|"):
            found.append([])
        elif not line.startswith("|---"):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
    return [table for table in found if table]


def numbers(cells: Sequence[str], part: int) -> tuple[float, ...] | None:
    """Return the number of each cell in one of its parts; None where one has none."""
    found = []
    for cell in cells:
        parts = PARTS.split(cell)
        number = NUMBER.search(parts[part]) if part < len(parts) else None
        if number is None:
            return None
        found.append(float(number[0]))
    return tuple(found)


def label(cells: Sequence[str]) -> str:
    """Return the name of a row, in short lines."""
    return "\n".join(fill(part, WIDTH) for part in ", ".join(cells).replace("`", "").split(", "))


def bars(text: str, chosen: argparse.Namespace) -> Chart:
    """Return the chart of the columns and rows that are ``chosen``."""
    wanted = [*chosen.rows_by, *chosen.columns]
    for heads, *lines in tables(text):
        if not set(wanted) <= {*heads, ""}:
            continue
        labels = [heads.index(head) if head else 0 for head in chosen.rows_by]
        places = [heads.index(head) for head in chosen.columns]
        rows = {
            label([line[place] for place in labels]): values
            for line in lines
            if (values := numbers([line[place] for place in places], chosen.part)) is not None
        }
        series = tuple(
            Series(head, tuple(rows), tuple(values[place] for values in rows.values()))
            for place, head in enumerate(chosen.columns)
        )
        return Chart(chosen.name, chosen.title, "", chosen.y, series, mark=chosen.mark)
    raise SystemExit(f"no table of {chosen.of} has the columns {', '.join(wanted)}")


def main() -> None:
    """Draw the chart, unless its file was drawn from the same numbers, and print the Markdown that shows it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    figure = parser.add_subparsers(required=True).add_parser("figure", help="draw the figure")
    figure.add_argument("--of", required=True, help="the command that prints the table, from the script on")
    figure.add_argument("--columns", nargs="+", required=True)
    figure.add_argument("--rows-by", nargs="+", default=[""], help="columns that name a row; the first by default")
    figure.add_argument("--part", type=int, default=0)
    figure.add_argument("--mark", type=float, help="where to draw a line")
    for name in ("--name", "--title", "--y"):
        figure.add_argument(name, required=True)
    figure.add_argument("--check", action="store_true", help="draw nothing: end with 1 where the file is old")
    chosen = parser.parse_args()
    print(keep(bars(printed(chosen.of, chosen.check), chosen), draw_anew=not chosen.check))


if __name__ == "__main__":
    main()
