"""What ``vitq evaluate --baseline`` shows: both models side by side, and the classes that lost most."""

from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table

from vitq.report.units import NONE, agreement, label, number, percent, score

WORST = 10
"""Classes that are shown; ``--json`` has all."""


def baseline_tables(found: Any) -> Group:
    """Return the tables of a ``vitq.evaluation.Beside``."""
    table = _table("", "floating point", "quantized", "difference")
    floating = found.floating
    if found.top1 is not None:
        table.add_row(
            "top-1", _with(floating.top1, found.fp_interval), _with(found.top1, found.interval), _change(found)
        )
    if found.top5 is not None:
        table.add_row("top-5", percent(floating.top5), percent(found.top5), f"{found.top5 - floating.top5:+.2f}")
    if found.ece is not None:
        gap = f"{found.ece - found.fp_ece:+.2f}"
        table.add_row("expected calibration error", f"{found.fp_ece:.2f} %", f"{found.ece:.2f} %", gap)
    for name, value in (found.scores or {}).items():
        before = (floating.scores or {}).get(name)
        table.add_row(label(name), score(name, before), score(name, value), NONE)
    table.add_row("agreement with floating point", "", agreement(found.agreement, found.images), "")
    parts: list[Any] = [table]
    if found.p is not None:
        said = "may be chance" if found.within_noise else "is no chance"
        parts.append(
            f"The difference {said} (McNemar, p = {number(found.p)}); intervals hold 95 %. {found.images:,} images."
        )
    if lost := [own for own in found.classes if own.lost > 0][:WORST]:
        classes = _table("class", "images", "floating point", "quantized", "lost")
        for own in lost:
            classes.add_row(str(own.label), str(own.images), str(own.fp_correct), str(own.correct), f"{own.lost:.1f}")
        parts += ["", "Classes that lost most, images that are right and points:", classes]
    return Group(*parts)


def _with(value: float | None, interval: tuple[float, float] | None) -> str:
    return percent(value) + (f" ({interval[0]:.1f} to {interval[1]:.1f})" if interval else "")


def _change(found: Any) -> str:
    if found.difference is None:
        return f"{found.top1 - found.floating.top1:+.2f}"
    low, high = found.difference_interval
    return f"{found.difference:+.2f} ({low:+.2f} to {high:+.2f})"


def _table(*heads: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(heads[0], no_wrap=True)
    for head in heads[1:]:
        table.add_column(head, justify="right", no_wrap=True)
    return table
