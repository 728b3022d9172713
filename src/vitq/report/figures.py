"""The charts of a run's report: errors per block and over depth, losses, values and grids of sites."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from vitq.evidence import Distribution
from vitq.reconstruct.optimize import EVERY
from vitq.report.charts import ALERT, BAR, INK, SOFT, chart, log_scale, ticks
from vitq.report.training import Trained, levels
from vitq.report.units import number

MOST_LOSSES = 60
"""Points of a loss curve."""
MOST_LINES = 32
"""Grid lines up to which each is drawn as tall as the picture."""
NONE = 0.5
"""The count that stands for 0 on a scale of powers of ten."""


@dataclass(frozen=True)
class Shown:
    """The chart of one site, its name, and what is said of it."""

    chart: Markup
    site: str
    words: str


def block_chart(errors: Mapping[str, float], order: Sequence[str]) -> Markup | None:
    """Return one bar for the error of each block, in the model's ``order``; None where no error was measured.

    An error that is not finite has a bar as long as the largest, in the colour of an alert.
    """
    place = {name: i for i, name in enumerate(order)}  # JSON sorts blocks.10 before blocks.2
    names = sorted(errors, key=lambda name: place.get(name, len(place)))
    if not names:
        return None
    finite = {name: math.isfinite(errors[name]) for name in names}
    longest = max((errors[name] for name in names if finite[name]), default=0.0) or 1.0

    def draw(axes: Any) -> None:
        bars = axes.barh(
            names,
            [errors[name] if finite[name] else longest for name in names],
            color=[BAR if finite[name] else ALERT for name in names],
        )
        axes.bar_label(bars, [number(errors[name]) for name in names], padding=4, color=INK)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.2 * longest)
        axes.set_xticks([])
        axes.spines.bottom.set_visible(False)
        axes.grid(False)

    return chart("blocks", "error per block", draw, wide=340, high=16 * len(names) + 24)


def depth_chart(trained: tuple[Trained, ...]) -> Markup | None:
    """Return the error of every trained segment over depth, before and after, one panel a sweep."""
    sweeps = levels(trained)
    if not sweeps:
        return None

    def draw(axes: Any) -> None:
        for panel, (own, (level, segments)) in enumerate(zip(_each(axes), sweeps.items(), strict=True)):
            places = range(len(segments))
            before, after = [s.before for s in segments], [s.after for s in segments]
            own.plot(places, before, color=SOFT, marker="o", label="before training")
            own.plot(places, after, color=BAR, marker="o", label="after")
            back = [place for place in places if segments[place].rolled_back]
            if back:
                own.plot(back, [after[place] for place in back], "x", color=ALERT, label="rolled back")
            log_scale(own, [*before, *after])
            own.set_title(f"segments by {_level(level)}", loc="left")
            ticks(own, [segment.name for segment in segments])
            if panel == 0:
                own.legend(loc="best")

    return chart("depth", "error over depth, before and after training", draw, panels=len(sweeps), high=200)


def loss_chart(trained: tuple[Trained, ...]) -> Markup | None:
    """Return the losses of every segment over training steps, relative to the first, one panel a sweep."""
    sweeps = {
        level: [segment for segment in segments if len(segment.losses) > 1 and segment.losses[0] > 0]
        for level, segments in levels(trained).items()
    }
    sweeps = {level: segments for level, segments in sweeps.items() if segments}
    if not sweeps:
        return None

    def draw(axes: Any) -> None:
        for own, (level, segments) in zip(_each(axes), sweeps.items(), strict=True):
            seen: list[float] = []
            for place, segment in enumerate(segments):
                step = -(-len(segment.losses) // MOST_LOSSES)
                values = [loss / segment.losses[0] for loss in segment.losses[::step]]
                shade = 0.25 + 0.75 * (place + 1) / len(segments)
                own.plot([EVERY * step * i for i in range(len(values))], values, color=BAR, alpha=shade, linewidth=1)
                seen += values
            log_scale(own, seen)
            own.set_title(f"segments by {_level(level)}, the deeper the stronger", loc="left")
        own.set_xlabel("training step")

    return chart("losses", "loss relative to the first, over training steps", draw, panels=len(sweeps))


def site_chart(number: int, shown: Distribution) -> Markup:
    """Return the histogram of a site's values, on a scale of powers of ten, and the values that its codes have."""
    width = (shown.high - shown.low) / len(shown.counts)
    edges = [shown.low + width * place for place in range(len(shown.counts) + 1)]
    grid = [value for value in shown.grid if shown.low - width <= value <= shown.high + width]

    def draw(axes: Any) -> None:
        powers = [math.log10(max(count, NONE)) for count in shown.counts]
        axes.stairs(powers, edges, baseline=math.log10(NONE), fill=True, color=BAR, alpha=0.75)
        axes.set_ylim(bottom=math.log10(NONE))
        axes.yaxis.set_visible(False)
        few = len(grid) <= MOST_LINES
        top = 1.0 if few else 0.12
        axes.plot(  # one path with gaps takes a third of the time of as many lines
            [value for value in grid for _ in range(3)],
            [0, top, math.nan] * len(grid),
            transform=axes.get_xaxis_transform(),
            color=INK if few else ALERT,
            linewidth=0.6 if few else 0.4,
        )
        axes.margins(x=0.01)

    return chart(f"site{number}", f"values and grid of {shown.site}", draw, wide=300, high=110, bare=True)


def _each(axes: Any) -> Sequence[Any]:
    return axes if isinstance(axes, list) else [axes]


def _level(level: str) -> str:
    return f"{level} blocks" if level.isdigit() else level
