"""What people see of a diagnosis: a table on the console, and a page."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from vitq.artifact.files import write_files
from vitq.bits import Bits
from vitq.report.advice import Advice, allocate
from vitq.report.charts import ALERT, BAR, chart, log_scale, ticks
from vitq.report.figures import Shown, site_chart
from vitq.report.maps import number_map
from vitq.report.page import check_page as check_page
from vitq.report.page import page
from vitq.report.units import number

if TYPE_CHECKING:
    from vitq.diagnosis import Diagnosis
    from vitq.diagnosis.sanity import Sanity

TEMPLATE = "diagnosis.html.j2"
SHOWN = 10
"""Rows of the table on the console."""

LONG, LARGE = 10.0, 30.0
"""Ratios of the longest token and of the largest channel that are worth a word."""


def diagnosis_table(found: "Diagnosis") -> Group:
    """Return whether the preprocessing fits, and the sites that cost most."""
    table = Table(title="Hardest sites", box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for header in ("site", "role", f"share of the distance at {found.bits}", "why"):
        table.add_column(header, overflow="fold")
    why = {hard.site: "; ".join(hard.reasons) for hard in found.hard}
    for site, gain in found.ranked()[:SHOWN]:
        table.add_row(escape(site), found.roles[site], f"{100 * gain:.1f} %", why.get(site, ""))
    return Group(escape(sanity_words(found.sanity)), table)


def sanity_words(sanity: "Sanity | None") -> str:
    """Return in one sentence whether the preprocessing fits."""
    if sanity is None:
        return "The outputs are no classes, so confidence says nothing of the preprocessing."
    sure = f"{100 * sanity.confidence:.0f} % sure of {sanity.images} images on average"
    if sanity.better is not None:
        own, other = (f"{100 * share:.0f} %" for share in (sanity.beside, sanity.better.confidence))
        instead = f"with {sanity.better.name} it is {other} sure of the first of them instead of {own}"
        return f"The preprocessing does not seem to fit: the model is {sure}; {instead}."
    if not sanity.fits:
        steady = ", ".join(f"{view.name} {100 * view.agreement:.0f} %" for view in sanity.crops)
        return f"The model is {sure}; its class should stay for other crops ({steady})."
    return f"The preprocessing fits: the model is {sure}, and no other normalisation makes it surer."


def hardness_words(found: "Diagnosis") -> str:
    """Return in one sentence what will be hard."""
    roles = sorted(found.left_out.roles, key=found.left_out.gain, reverse=True)
    distance = f"With everything at {found.bits} the outputs are {number(found.left_out.all)} from floating point"
    if not roles or found.left_out.all <= 0:
        return f"{distance}."
    first = f"{roles[0]} causes {100 * found.left_out.gain(roles[0]):.0f} % of it"
    return f"{distance}; {first}."


def diagnosis_advice(found: "Diagnosis") -> tuple[Advice, ...]:
    """Return what to do with the model, each with its command."""
    model, advice = shlex.quote(found.model), list[Advice]()
    if found.sanity is not None and not found.sanity.fits:
        advice.append(
            Advice(
                "First see what the model scores on labelled images; another crop may fit better.",
                f"vitq evaluate {model} --images DIR --crop-pct 0.95",
            )
        )
    kept = [hard.site for hard in found.hard[:3] if hard.gain > 0.05]
    if kept and found.bits != "w8a8":
        advice.append(
            Advice(
                "The hardest sites get 8 bits, the others what is left of the average.",
                allocate(model, Bits.parse(found.bits), *kept),
            )
        )
    if any(extreme.channel_ratio > LARGE for extreme in found.extremes):
        advice.append(
            Advice(
                "Channels differ much: segments that end where outliers are few train better.",
                f"vitq granularity {model} --images DIR --bits {found.bits}",
            )
        )
    advice.append(
        Advice("Quantize: 8 bits by calibration first.", f"vitq quantize {model} --images DIR --validation DIR")
    )
    if found.bits != "w8a8":
        advice.append(
            Advice(
                f"Then {found.bits}, which is trained below 6 bits.",
                f"vitq quantize {model} --images DIR --validation DIR --bits {found.bits}",
            )
        )
    return tuple(advice)


def render_diagnosis(found: "Diagnosis") -> str:
    """Return one page that needs nothing but itself."""
    gains = {site: 100 * found.left_out.gain(site) for site in found.left_out.sites}
    roles = sorted(found.left_out.roles, key=found.left_out.gain, reverse=True)
    return page(
        TEMPLATE,
        found=found,
        sanity=found.sanity,
        fits=found.sanity is None or found.sanity.fits,
        sanity_words=sanity_words(found.sanity),
        hardness_words=hardness_words(found),
        advice=diagnosis_advice(found),
        roles=[
            (role, f"{100 * found.left_out.gain(role):.1f} %", number(found.left_out.roles[role])) for role in roles
        ],
        heat=number_map(gains, found.blocks, dict.fromkeys(gains, "% of the distance")),
        worst=[
            Shown(
                site_chart(place, hard.distribution),
                hard.site,
                f"{100 * hard.gain:.1f} % of the distance; {'; '.join(hard.reasons) or 'its values look ordinary'}; "
                f"shown: {hard.distribution.slice}",
            )
            for place, hard in enumerate(found.hard)
            if hard.distribution is not None
        ],
        channels=_ratios(found),
        notable=_notable(found),
    )


def write_diagnosis(path: Path, found: "Diagnosis") -> Path:
    """Write the page to ``path`` and return it; ArtifactError where that fails or another's file is there."""
    check_page(path)
    write_files(path.parent, {path.name: render_diagnosis(found).encode()})
    return path


def _ratios(found: "Diagnosis") -> Markup | None:
    """Return the most extreme channel and token behind every unit."""
    if not found.extremes:
        return None
    names = [extreme.name for extreme in found.extremes]
    channels = [extreme.channel_ratio for extreme in found.extremes]
    tokens = [extreme.token_ratio for extreme in found.extremes]

    def draw(axes: Any) -> None:
        axes.plot(range(len(names)), channels, color=BAR, marker="o", label="largest over median channel")
        axes.plot(range(len(names)), tokens, color=ALERT, marker="s", label="longest over median token")
        log_scale(axes, [*channels, *tokens])
        ticks(axes, names)
        axes.legend(loc="best")

    return chart("extremes", "outlier channels and tokens over depth", draw, high=220)


def _notable(found: "Diagnosis") -> list[str]:
    """Return sentences on the most extreme token and channel."""
    if not found.extremes:
        return []
    channel = max(found.extremes, key=lambda extreme: extreme.channel_ratio)
    token = max(found.extremes, key=lambda extreme: extreme.token_ratio)
    sentences = []
    if channel.channel_ratio > LARGE:
        sentences.append(
            f"Behind {channel.name}, channel {channel.channel} is {channel.channel_ratio:.0f} times the median channel."
        )
    if token.token_ratio > LONG:
        sentences.append(
            f"Behind {token.name}, the longest token (most often {token.token}, counted from 0) is "
            f"{token.token_ratio:.0f} times as long as the median; {100 * token.tokens:.1f} % of tokens are outliers."
        )
    return sentences or ["No token and no channel stands out."]
