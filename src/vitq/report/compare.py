"""Several runs side by side: verdicts, sizes, speeds, and whether they differ on the same images by more than noise."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vitq.artifact.artifact import Artifact
from vitq.artifact.files import exists, parse_json, read_file, write_files
from vitq.errors import VitqError
from vitq.report.charts import LINE, SOFT, chart, log_scale, ticks
from vitq.report.extras import Extras
from vitq.report.page import check_page, page
from vitq.report.paired import Loss, paired_loss
from vitq.report.units import duration, number, percent, size
from vitq.report.verdict import Verdict, verdict_of

TEMPLATE = "comparison.html.j2"
COLOURS = ("#4477aa", "#ee6677", "#228833", "#aa3377", "#b08a00", "#2aa3bd")
"""Of runs; readable on light and dark. Source: Paul Tol's bright scheme, the yellow and the cyan darker."""


@dataclass(frozen=True)
class Run:
    """One run of a comparison; ``seconds`` that it took, where its folder tells."""

    artifact: Artifact
    extras: Extras
    seconds: float | None = None

    @property
    def verdict(self) -> Verdict:
        """The verdict on it alone."""
        evidence = self.extras.evidence
        pairs = None if evidence is None else evidence.pairs
        return verdict_of(self.artifact.metrics, pairs, self.extras.bench, self.extras.within)


@dataclass(frozen=True)
class Line:
    """One run in the table, as text; ``against`` is what it lost against the first run."""

    name: str
    verdict: Verdict
    cells: tuple[str, ...]
    against: str


HEADERS = ("bits", "recipe", "top-1", "agreement", "mean error", "size", "fastest, batch 1", "time")


def render_comparison(runs: Mapping[str, Run]) -> str:
    """Return the page of several runs by name; the first is the one that the others are compared with."""
    first = next(iter(runs.values()))
    lines = [
        Line(name, run.verdict, _cells(run), "" if run is first else against(first, run)) for name, run in runs.items()
    ]
    metrics = first.artifact.metrics
    return page(
        TEMPLATE,
        names=list(runs),
        first=next(iter(runs)),
        headers=HEADERS,
        lines=lines,
        floating=(percent(metrics.fp_top1), size(metrics.fp_size_bytes)),
        sizes=_size_chart(runs),
        depth=_depth_chart(runs),
    )


def write_comparison(path: Path, runs: Mapping[str, Run]) -> Path:
    """Write the page to ``path`` and return it; ArtifactError where that fails or another's file is there."""
    check_page(path)
    write_files(path.parent, {path.name: render_comparison(runs).encode()})
    return path


def against(first: Run, other: Run) -> str:
    """Return what ``other`` lost against ``first`` on the same images, in words."""
    found = difference(first, other)
    if found is None:
        return "not on the same images"
    noise = "within noise" if found.within_noise else "more than noise"
    p = "" if found.p is None else f", p {'< 0.001' if found.p < 0.001 else f'= {found.p:.2g}'}"
    return f"{-found.points:+.1f} points ({-found.high:+.1f} to {-found.low:+.1f}{p}): {noise}"


def difference(first: Run, other: Run) -> Loss | None:
    """Return what ``other`` lost against ``first``, image by image; None where they were not measured on the same."""
    pairs = [None if run.extras.evidence is None else run.extras.evidence.pairs for run in (first, other)]
    one, two = pairs
    if one is None or two is None or one.sha256 != two.sha256 or not one.quantized or not two.quantized:
        return None
    return paired_loss(one.quantized, two.quantized)


def seconds_of(folder: Path) -> float | None:
    """Return how long the run in ``folder`` took, where it tells."""
    path = folder / "run.json"
    try:
        value = parse_json(read_file(path), path).get("seconds") if exists(path) else None
    except VitqError:
        return None
    return float(value) if isinstance(value, int | float) else None


def _cells(run: Run) -> tuple[str, ...]:
    config, metrics, bench = run.artifact.config, run.artifact.metrics, run.extras.bench
    times = [] if bench is None else [row.milliseconds[1] for row in bench.own() if 1 in row.milliseconds]
    return (
        config.bits,
        str(config.recipe.get("name", "")),
        percent(metrics.top1),
        percent(metrics.agreement),
        number(metrics.mean_segment_error),
        size(metrics.size_bytes),
        f"{min(times):.1f} ms" if times else "-",
        duration(run.seconds),
    )


def _size_chart(runs: Mapping[str, Run]) -> Markup | None:
    """Return accuracy, or agreement where there is none, against size."""
    metrics = {name: run.artifact.metrics for name, run in runs.items()}
    labelled = all(m.top1 is not None for m in metrics.values())
    heights = {name: m.top1 if labelled else m.agreement for name, m in metrics.items()}
    points = {n: (m.size_bytes / 1e6, y) for n, m in metrics.items() if m.size_bytes and (y := heights[n]) is not None}
    if len(points) < 2:
        return None

    def draw(axes: Any) -> None:
        for place, (name, (x, y)) in enumerate(points.items()):
            colour = COLOURS[place % len(COLOURS)]
            axes.plot([x], [y], "o", color=colour)
            axes.annotate(name, (x, y), xytext=(5, 5), textcoords="offset points", color=colour, fontsize=9)
        top = next(iter(metrics.values())).fp_top1
        if labelled and top is not None:
            axes.axhline(top, color=SOFT, linestyle="--", linewidth=0.8)
            place_of = {"xycoords": ("axes fraction", "data"), "xytext": (2, 3), "textcoords": "offset points"}
            axes.annotate("floating point", (0, top), color=SOFT, fontsize=9, **place_of)
        axes.margins(x=0.25, y=0.2)
        axes.set_xlabel("size in MB")
        axes.set_ylabel("top-1 in percent" if labelled else "agreement in percent")

    return chart("sizes", "accuracy against size", draw, high=220)


def _depth_chart(runs: Mapping[str, Run]) -> Markup | None:
    """Return the error behind each block for every run."""
    order = [span.name for span in next(iter(runs.values())).artifact.graph.spans("block")]
    curves = {name: run.artifact.metrics.segment_errors for name, run in runs.items()}
    if not any(curves.values()):
        return None

    def draw(axes: Any) -> None:
        seen: list[float] = []
        for place, (name, errors) in enumerate(curves.items()):
            own = [(x, errors[block]) for x, block in enumerate(order) if block in errors]
            axes.plot(
                *zip(*own, strict=True), color=COLOURS[place % len(COLOURS)], marker="o", label=name
            ) if own else None
            seen += [error for _, error in own]
        log_scale(axes, seen)
        ticks(axes, order)
        axes.legend(loc="best")
        axes.grid(color=LINE)

    return chart("depths", "error per block", draw, high=220)
