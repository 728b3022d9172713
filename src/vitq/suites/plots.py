"""Score against size for each model, with the front that no other point beats, as SVG drawn by matplotlib."""

import io
from collections.abc import Sequence

from vitq.report.units import label
from vitq.suites.board import Board, Group
from vitq.suites.suite import FLOATING

WIDTH, HEIGHT = 6.4, 3.8
"""Inches."""


def pareto_plots(board: Board) -> list[str]:
    """Return one drawing for each model that has sizes and scores."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": board.suite.name, "svg.fonttype": "none", "font.size": 9}):
        return [svg for model in board.suite.models if (svg := _plot(model, _points(board, model)))]


def front(points: Sequence[Group]) -> list[Group]:
    """Return the points that no smaller or equally small one beats, by size."""
    best: list[Group] = []
    for point in sorted(points, key=lambda p: (p.size_bytes or 0, -p.merit)):
        if not best or point.merit > best[-1].merit:
            best.append(point)
    return best


def _points(board: Board, model: str) -> list[Group]:
    return [group for group in board.groups if group.model == model and group.size_bytes]


def _plot(model: str, points: Sequence[Group]) -> str:
    if not points:
        return ""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.add_subplot()
    for recipe in dict.fromkeys((point.recipe, point.budget) for point in points):
        own = [point for point in points if (point.recipe, point.budget) == recipe]
        axes.errorbar(
            [_megabytes(point) for point in own],
            [point.score.mean for point in own],
            yerr=[point.score.deviation or 0.0 for point in own],
            fmt="s" if recipe[0] == FLOATING else "o",
            capsize=2,
            label=", ".join(filter(None, recipe)),
        )
    best = front(points)
    axes.plot([_megabytes(p) for p in best], [p.score.mean for p in best], color="0.5", linewidth=0.8, zorder=0)
    for point in best:
        place = (_megabytes(point), point.score.mean)
        if point.recipe != FLOATING:
            axes.annotate(point.bits, place, textcoords="offset points", xytext=(4, 4), fontsize=8)
    axes.set(title=model, xlabel="megabytes", ylabel=label(points[0].metric), xscale="log")
    for set_formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        set_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg", metadata={"Date": None}, transparent=False)
    text = drawing.getvalue()
    return text[text.index("<svg") :]


def _megabytes(point: Group) -> float:
    return (point.size_bytes or 0) / 1e6
