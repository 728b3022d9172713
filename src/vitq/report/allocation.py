"""What people see of an allocation: tables on the console, and one page with its heat map and its Pareto curve."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.bar import Bar
from rich.console import Group
from rich.table import Table

from vitq.allocate.problem import DISTANCE, LIMITS
from vitq.artifact.files import write_files
from vitq.report.heat import heat_rows, heat_table
from vitq.report.page import check_page, page
from vitq.report.units import number, size

if TYPE_CHECKING:
    from vitq.allocation import Allocation, Point

TEMPLATE = "allocation.html.j2"
WIDTH, HEIGHT, LEAST = 560, 240, 1e-9


@dataclass(frozen=True)
class Dot:
    """A point of the curve in the picture's units."""

    x: float
    y: float
    text: str


def allocation_tables(allocation: "Allocation") -> Group:
    """Return the budgets, the bits over depth, and the Pareto curve with the chosen point."""
    costs, problem = allocation.costs, allocation.problem
    budget = _table("Budget", ("", "limit", "chosen"))
    for name, cost in costs.items():
        limit = problem.limits.get(name)
        budget.add_row(LIMITS[name], "" if limit is None else f"{limit:,.6g}", f"{cost:,.6g}")
    bound = problem.limits.get(DISTANCE)
    budget.add_row(LIMITS[DISTANCE], "" if bound is None else number(bound), number(allocation.point.distance))
    if allocation.expected_loss is not None:
        budget.add_row("expected loss of the score, in percent", "", number(allocation.expected_loss))
    if allocation.floating:
        budget.add_row("sites in floating point", "", f"{len(allocation.floating)} of {len(allocation.bits)}")
    if allocation.measured is not None:
        budget.add_row("measured distance", "", number(allocation.measured))
    curve = _table("Expected distance against size", ("average bits", "size", "distance", ""))
    curve.add_column("", ratio=1)
    worst = max((point.distance for point in allocation.curve), default=0.0)
    points = sorted({*allocation.curve, allocation.point}, key=lambda point: point.size_bytes)
    for point in points:
        mine = point == allocation.point
        bar = Bar(size=max(worst, LEAST), begin=0, end=point.distance, width=30)
        row = (averages(point), size(point.size_bytes), number(point.distance), "chosen" if mine else "")
        curve.add_row(*row, bar, style="bold" if mine else "")
    return Group(budget, heat_table(heat_rows(allocation.bits, allocation.blocks)), curve)


def averages(point: "Point") -> str:
    """Return the average bits of a point: ``w4.5 a4``."""
    parts = zip(("w", "a"), point.averages, strict=True)
    return " ".join(f"{kind}{average:.3g}" for kind, average in parts if average is not None)


def render_allocation(allocation: "Allocation") -> str:
    """Return one page that needs nothing but itself: budgets, heat map, Pareto curve."""
    about, costs, limits = allocation.sensitivities.about, allocation.costs, allocation.problem.limits
    dots, chosen = dots_of([*allocation.curve, allocation.point])
    ends = sorted(point.size_bytes for point in (*allocation.curve, allocation.point))
    distances = sorted(point.distance for point in (*allocation.curve, allocation.point))
    return page(
        TEMPLATE,
        model=str(about.get("source", {}).get("name", "model")),
        label=allocation.label,
        solver=allocation.solver,
        lines=[
            (LIMITS[name], f"{limits[name]:,.6g}" if name in limits else "", f"{cost:,.6g}")
            for name, cost in costs.items()
        ],
        expected=number(allocation.point.distance),
        measured=None if allocation.measured is None else number(allocation.measured),
        rows=heat_rows(allocation.bits, allocation.blocks),
        dots=dots,
        chosen=chosen,
        width=WIDTH,
        height=HEIGHT,
        sizes=(size(ends[0]), size(ends[-1])),
        distances=(number(distances[0]), number(distances[-1])),
    )


def write_allocation(path: Path, allocation: "Allocation") -> Path:
    """Write the page to ``path`` and return it; ArtifactError where that fails or another file is there."""
    check_page(path)
    write_files(path.parent, {path.name: render_allocation(allocation).encode()})
    return path


def dots_of(points: Sequence["Point"]) -> tuple[list[Dot], Dot]:
    """Return all points but the last along the curve, and the last: sizes to the right, log distance upwards."""
    sizes = [point.size_bytes for point in points]
    logs = [log10(max(point.distance, LEAST)) for point in points]
    wide, high = max(max(sizes) - min(sizes), 1), max(max(logs) - min(logs), 1e-9)
    dots = [
        Dot(
            round(10 + (WIDTH - 20) * (s - min(sizes)) / wide, 1),
            round(HEIGHT - 10 - (HEIGHT - 20) * (d - min(logs)) / high, 1),
            f"{averages(point)}: {size(point.size_bytes)}, {number(point.distance)}",
        )
        for point, s, d in zip(points, sizes, logs, strict=True)
    ]
    return dots[:-1], dots[-1]


def _table(title: str, headers: tuple[str, ...]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.add_column(headers[0], no_wrap=True)
    for header in headers[1:]:
        table.add_column(header, justify="right", no_wrap=True)
    return table
