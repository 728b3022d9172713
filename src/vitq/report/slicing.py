"""Plots of a choice of slicing: outliers over depth, and the error of every candidate, as bars in a table."""

from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.bar import Bar
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from vitq.artifact.artifact import write_files
from vitq.artifact.files import exists, read_file, shown
from vitq.errors import ArgumentError, ArtifactError
from vitq.report.units import number

if TYPE_CHECKING:
    from vitq.reconstruct import Choice


TITLE = "vitq granularity"
MARK = TITLE.replace(" ", "&#160;").encode()
"""In every plot that vitq has written."""


def plots(choice: "Choice") -> Group:
    """Return two tables with bars: outliers behind every unit, with the best slicing's cuts; the error per slicing."""
    outliers = _table(
        "Outliers over depth", ("behind unit", "energy in outliers", "max / median channel", "best slicing")
    )
    ends = {piece.span.end for piece in choice.best.pieces}
    top = max((place.share for place in choice.profile), default=0.0)
    for place in choice.profile:
        share = f"{100 * place.share:.2f} %"
        cut = "cut" if place.cut in ends else ""
        outliers.add_row(escape(place.name), share, f"{place.ratio:.1f}", cut, _bar(place.share, top))
    scores = _table("Trials", ("slicing", "error of the final feature", ""))
    worst = max(choice.scores.values(), default=0.0)
    for name, score in choice.scores.items():
        best = name == choice.best.name
        scores.add_row(
            escape(name), number(score), "best" if best else "", _bar(score, worst), style="bold" if best else ""
        )
    return Group(outliers, scores)


def check_svg(path: Path) -> None:
    """Raise ArgumentError where no plots can be at ``path``, ArtifactError where a file is that is not vitq's."""
    if path.suffix != ".svg":
        raise ArgumentError(f"--out {shown(path)}: the plots are saved as .svg; name a file that ends so")
    if not path.parent.is_dir():
        raise ArgumentError(f"--out {shown(path)}: there is no folder '{shown(path.parent)}'")
    if exists(path) and MARK not in read_file(path):
        raise ArtifactError(
            f"--out {shown(path)} was not written by vitq, so it is not overwritten: choose another name"
        )


def save_svg(path: Path, choice: "Choice") -> None:
    """Write the plots to ``path``; ArtifactError where that fails."""
    console = Console(record=True, width=120, file=StringIO())
    console.print(plots(choice))
    write_files(path.parent, {path.name: console.export_svg(title=TITLE).encode()})


def _table(title: str, headers: tuple[str, ...]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.add_column(headers[0], no_wrap=True)
    for header in headers[1:]:
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("", ratio=1)
    return table


def _bar(value: float, largest: float) -> Bar:
    return Bar(size=max(largest, 1e-12), begin=0, end=value, width=40)
