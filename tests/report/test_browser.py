"""Pages as a browser shows them, at three widths, light and dark: headless Chromium, where one is at hand."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vitq
from vitq.report.diagnosis import render_diagnosis

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (360, 768, 1280)
THEMES = {"dark": 0, "light": 1}
FRAME = '<iframe width="{width}" height="900" srcdoc="{page}"></iframe>'
SCRIPT = """<script>
onload = () => {
  const seen = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, root = page.documentElement, style = getComputedStyle(page.body);
    const boxes = [...page.querySelectorAll("svg, img")].map(e => e.getBoundingClientRect());
    return {wide: root.scrollWidth, page: root.clientWidth, ink: style.color, paper: style.backgroundColor,
      empty: boxes.filter(b => b.width < 1 || b.height < 1).length, pictures: boxes.length,
      broken: [...page.images].filter(i => !i.complete || !i.naturalWidth).length,
      right: Math.max(0, ...[...page.querySelectorAll(".results, .narrow svg")].map(
        e => e.getBoundingClientRect().right)),
      text: getComputedStyle(page.querySelector("svg text") || page.body).fill};
  });
  document.body.textContent = "SEEN" + JSON.stringify(seen) + "SEEN";
};
</script>"""
"""Frames of different widths in one page: a start of the browser takes seconds."""


def looked_at(page: str, theme: str, folder: Path) -> list[dict[str, Any]]:
    """Return what a browser says of a page at each of ``WIDTHS``."""
    assert CHROMIUM is not None
    frames = "".join(FRAME.format(width=width, page=html.escape(page)) for width in WIDTHS)
    (folder / "frames.html").write_text(f"<!DOCTYPE html><meta charset=utf-8><body>{frames}{SCRIPT}", encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--blink-settings=preferredColorScheme={THEMES[theme]}"]
    line = [CHROMIUM, *options, f"--user-data-dir={folder / 'profile'}", "--dump-dom", f"file://{folder}/frames.html"]
    shown = subprocess.run(line, capture_output=True, text=True, timeout=300, check=True).stdout
    (found,) = re.findall("SEEN(.*)SEEN", shown, re.DOTALL)
    return list(json.loads(html.unescape(found)))


def brightness(colour: str) -> float:
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3


@pytest.fixture(scope="module")
def pages(one_block: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    torch.manual_seed(0)
    root, images = tmp_path_factory.mktemp("pages"), torch.randn(16, 3, 8, 8)
    data = (images, one_block(images).argmax(-1))
    quick = {"reconstruct.steps": 25, "reconstruct.batch": 4}
    for name, options in (("rtn", {}), ("qdrop", {"overrides": quick})):
        vitq.quantize(
            one_block, images, validation=data, recipe=name, bits="w3a3", out=root / name, progress=False, **options
        )
    return {
        "report": (root / "qdrop" / "report.html").read_text(),
        "comparison": vitq.report([root / "rtn", root / "qdrop"], out=root / "both.html").read_text(),
        "diagnosis": render_diagnosis(vitq.diagnose(one_block, images, progress=False)),
    }


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install the system's package chromium to look at pages")
@pytest.mark.parametrize("theme", list(THEMES))
@pytest.mark.parametrize("kind", ["report", "comparison", "diagnosis"])
def test_a_page_fits_every_width_and_both_themes(pages: dict[str, str], kind: str, theme: str, tmp_path: Path) -> None:
    found = looked_at(pages[kind], theme, tmp_path)
    assert len(found) == len(WIDTHS)
    for width, seen in zip(WIDTHS, found, strict=True):
        assert seen["wide"] <= seen["page"] <= width, "the page itself is never wider than the screen"
        assert seen["right"] <= seen["page"], "results and errors of blocks are seen whole"
        assert seen["pictures"] > 0 and seen["empty"] == 0 and seen["broken"] == 0
        dark, light = sorted((brightness(seen["ink"]), brightness(seen["paper"])))
        assert light - dark > 150 and (brightness(seen["paper"]) < 100) is (theme == "dark")
        assert abs(brightness(seen["text"]) - brightness(seen["paper"])) > 60, "charts take the page's colours"


@pytest.mark.parametrize("kind", ["report", "comparison", "diagnosis"])
def test_a_page_is_whole_small_and_needs_nothing_from_outside(pages: dict[str, str], kind: str) -> None:
    page = pages[kind]
    assert len(page.encode()) < 3_000_000 and "<script" not in page and "None" not in page
    assert not re.search(r"https?://|@import|<link", page)
    for kind_of, target in re.findall(r"\b(src|href|srcset)=\"([^\"]*)\"", page):
        assert target.startswith("data:image/") if kind_of == "src" else target.startswith("#"), target
    names = re.findall(r"\bid=\"([^\"]+)\"", page)
    assert len(names) == len(set(names)) and set(re.findall(r"(?:href=\"#|url\(#)([^\")]+)", page)) <= set(names)
    opened = re.findall(r"<(section|table|svg|figure|div|dl|ol|ul|pre|main)\b", page)
    assert all(opened.count(tag) == page.count(f"</{tag}>") for tag in set(opened))


def test_a_trained_run_shows_its_losses_and_errors_before_and_after(pages: dict[str, str]) -> None:
    for words in ("Error over depth, before and after training", "Losses", "before training", "training step"):
        assert words in pages["report"]
