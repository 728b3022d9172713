"""Charts of the benchmark pages: what is drawn, as data, and the SVG file that is drawn from it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

FIGURES = Path(__file__).parent / "figures"


@dataclass(frozen=True)
class Series:
    """Values of one colour; ``marker`` and ``line`` are matplotlib's, for points alone."""

    label: str
    x: tuple[float | str, ...]
    y: tuple[float, ...]
    marker: str = "o"
    line: str = ""


@dataclass(frozen=True)
class Chart:
    """One figure: bars side by side over names, or points; ``mark`` draws a line at that value."""

    name: str
    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    kind: Literal["bars", "points"] = "bars"
    mark: float | None = None
    log_x: bool = False

    def digest(self) -> str:
        """Return a short hash of all that is drawn."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def shown(chart: Chart) -> str:
    """Return the line of Markdown that shows a chart, from the root of the repository."""
    return f"![{chart.title}](benchmarks/figures/{chart.name}.svg)"


def is_drawn(chart: Chart, folder: Path = FIGURES) -> bool:
    """Whether the file of the chart's name was drawn from the same numbers: its SVG holds their hash."""
    path = folder / f"{chart.name}.svg"
    return path.exists() and f"data {chart.digest()}" in path.read_text(encoding="utf-8")


def keep(chart: Chart, folder: Path = FIGURES, *, draw_anew: bool = True) -> str:
    """Draw the chart where its file is missing or old, and return the Markdown that shows it.

    SystemExit without ``draw_anew`` where there is something to draw.
    """
    if not is_drawn(chart, folder):
        if not draw_anew:
            raise SystemExit(f"{chart.name}.svg is missing or shows other numbers; run: python benchmarks/pages.py")
        folder.mkdir(parents=True, exist_ok=True)
        draw(chart, folder / f"{chart.name}.svg")
    return shown(chart)


def draw(chart: Chart, path: Path) -> None:
    """Draw the chart as SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    with plt.rc_context({"svg.hashsalt": chart.name, "svg.fonttype": "none", "font.size": 10}):
        figure, axes = plt.subplots(figsize=(8.5, 3.6), layout="constrained")
        if chart.kind == "bars":
            width, names = 0.8 / len(chart.series), chart.series[0].x
            for number, series in enumerate(chart.series):
                where = [place + (number - (len(chart.series) - 1) / 2) * width for place in range(len(names))]
                bars = axes.bar(where, series.y, width, label=series.label)
                axes.bar_label(bars, fmt="%.2f" if max(series.y) < 10 else "%.0f", fontsize=8)
            axes.set_xticks(range(len(names)), names, fontsize=7)
        else:
            for series in chart.series:
                axes.plot(series.x, series.y, marker=series.marker, linestyle=series.line, label=series.label)
            axes.grid(alpha=0.3)
        if chart.log_x:
            axes.set_xscale("log")
        if chart.mark is not None:
            axes.axhline(chart.mark, color="0.4", linewidth=0.8, linestyle="--")
        axes.set(title=chart.title, xlabel=chart.x, ylabel=chart.y)
        axes.margins(y=0.12)
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.savefig(path, metadata={"Description": f"data {chart.digest()}", "Date": None})
        plt.close(figure)
