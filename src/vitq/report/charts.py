"""Charts of a page: drawn by Matplotlib, put into the page as SVG that takes its colours and its font from it."""

import logging
import re
from collections.abc import Callable, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, SOFT, LINE, BAR, ALERT = "#010203", "#020304", "#030405", "#040506", "#050607"
"""Stand for the page's own colours, which differ between light and dark."""

COLOURS = {INK: "--ink", SOFT: "--soft", LINE: "--line", BAR: "--bar", ALERT: "--alert"}
WIDE, HIGH = 480, 180
"""Points; readable at a phone's width, where it shrinks to three quarters."""

STYLE = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
}


def chart(
    name: str,
    title: str,
    draw: Callable[[Any], None],
    *,
    panels: int = 1,
    wide: int = WIDE,
    high: int = HIGH,
    bare: bool = False,
) -> Markup:
    """Return what ``draw`` puts on ``panels`` axes, one under the other, as inline SVG called ``title``.

    ``draw`` gets the axes, or a list of them where there are several. ``name`` is unique on a page: it makes the
    identifiers inside so, and the same picture has the same bytes. ``bare`` axes name nothing but places along x: how
    much room names need, which takes half of the time, is then not asked.
    """
    log = logging.getLogger("matplotlib")
    before = log.level
    log.setLevel(logging.ERROR)  # that a font cache is made is no news
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure

        with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
            figure = Figure(figsize=(wide / 72, high * panels / 72), layout=None if bare else "constrained")
            room = {"left": 0.05, "right": 0.95, "top": 0.96, "bottom": 18 / high} if bare else {}
            axes = figure.subplots(panels, 1, squeeze=False, gridspec_kw=room)[:, 0].tolist()
            draw(axes if panels > 1 else axes[0])
            content = StringIO()
            figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    finally:
        log.setLevel(before)
    return Markup(_inline(content.getvalue(), name, title))


def _inline(svg: str, name: str, title: str) -> str:
    """Return an SVG document as a part of an HTML page: no header, no fixed size, its own identifiers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>\s*", "", svg, flags=re.DOTALL)  # it would hold for the whole page
    svg = re.sub(r" xmlns(:\w+)?=\"[^\"]*\"", "", svg)
    head, rest = svg.split(">", 1)
    head = re.sub(r" (width|height|version)=\"[^\"]*\"", "", head)
    svg = f'{head} role="img" aria-label="{Markup.escape(title)}">{rest}'
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r"(\bid=\"|href=\"#|url\(#)", rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", svg)
    for colour, variable in COLOURS.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg.strip()


def ticks(axes: "Axes", names: Sequence[str], most: int = 12) -> None:
    """Name the places 0, 1, … of the x axis, not more than ``most`` of them."""
    step = -(-len(names) // most)
    axes.set_xticks(range(0, len(names), max(step, 1)), [names[place] for place in range(0, len(names), max(step, 1))])
    axes.tick_params(axis="x", labelrotation=60 if len(names) > 4 else 0)


def log_scale(axes: "Axes", values: Sequence[float]) -> None:
    """Use a logarithmic scale with few round numbers where values are positive and far apart."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    least, most = min(values, default=0.0), max(values, default=0.0)
    if least > 0 and most > 5 * least:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=8))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
