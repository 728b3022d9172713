"""Charts are parts of a page: they take its colours and need nothing from outside."""

import re
from typing import Any

from vitq.report.charts import BAR, chart, log_scale, ticks


def draw(axes: Any) -> None:
    axes.plot([0, 1, 2], [0.001, 0.1, 1.0], color=BAR, marker="o")
    log_scale(axes, [0.001, 1.0])
    ticks(axes, ["first", "second", "third"])


def test_a_chart_takes_colours_and_font_from_the_page_and_needs_nothing_else() -> None:
    svg = str(chart("one", 'a "title"', draw))
    assert svg.startswith("<svg") and svg.endswith("</svg>")
    assert "var(--bar)" in svg and "var(--soft)" in svg and not re.search(r"#0[1-5]0[2-6]0[3-7]", svg)
    assert "http" not in svg and "<style" not in svg and "<metadata" not in svg and "DejaVu" not in svg
    assert 'aria-label="a &#34;title&#34;"' in svg and not re.search(r"<svg[^>]* (width|height)=", svg)
    assert all(target in svg for target in ("first", "second", "third"))


def test_the_same_chart_has_the_same_bytes_and_two_on_a_page_share_no_name() -> None:
    first, again, other = (str(chart(name, "t", draw)) for name in ("one", "one", "two"))
    assert first == again
    names = [set(re.findall(r'id="([^"]+)"', svg)) for svg in (first, other)]
    assert names[0] and not names[0] & names[1]
    for svg, own in zip((first, other), names, strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) <= own
