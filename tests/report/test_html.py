"""The HTML report: complete, well formed, escaped, self-contained, the same bytes for the same model."""

import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import nn

import vitq
from vitq.artifact.artifact import Artifact
from vitq.artifact.metrics import RunMetrics
from vitq.calibrate import scope_rows
from vitq.errors import ArtifactError
from vitq.model import QuantizedModel
from vitq.report.figures import block_chart
from vitq.report.html import render, write_report
from vitq.report.results import result_lines

VOID = {"meta", "br", "hr", "img", "input", "link"}
METRICS = RunMetrics.model_validate(
    {
        "fp_top1": 84.1,
        "fp_top5": 97.0,
        "top1": 79.3,
        "top5": 95.3,
        "agreement": 85.5,
        "images": 1234,
        "mean_segment_error": 0.01234,
        "size_bytes": 3_100_000,
        "fp_size_bytes": 22_900_000,
        "seconds": 754.2,
        "peak_memory_bytes": 2 * 2**30,
        "segment_errors": {"0": 0.02, "2": 0.08},
        "warnings": [("dead-channel", "site 'a': 3 of 64 channels are constant")],
    }
)


class WellFormed(HTMLParser):
    """Collects text and attributes; fails on a tag that is not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: dict[str, list[str]] = {}
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.setdefault(tag, [])
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def quantized() -> Artifact:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.Flatten(), nn.Linear(16, 5))
    images = torch.randn(8, 3, 8, 8)
    result = vitq.quantize(model, images, recipe="rtn", bits="w3a5", limit=8, progress=False)
    return replace(result.artifact, metrics=METRICS)


def named(artifact: Artifact, name: str) -> Artifact:
    config = artifact.config.model_copy(update={"source": {**artifact.config.source, "name": name}})
    return replace(artifact, config=config)


def test_is_well_formed_and_holds_every_number(quantized: Artifact) -> None:
    page = WellFormed(render(quantized))
    text = " ".join(page.text)
    for shown in ("Sequential, w3a5, rtn", "84.1 %", "79.3 %", "-4.8 points", "97.0 %", "95.3 %", "85.5 %"):
        assert shown in text
    for shown in (
        "1,234 labelled images",
        "3.1 MB",
        "22.9 MB",
        "7.4 times smaller",
        "12 min 34 s",
        "2.00 GiB",
    ):
        assert shown in text
    assert "dead-channel" in text and "3 of 64 channels are constant" in text
    assert "0.0123" in text
    for hashed in (quantized.config.source["sha256"], quantized.config.calibration["sha256"]):
        assert hashed in text
    assert quantized.config.versions["torch"] in text


def test_scope_and_recipe_are_written_out(quantized: Artifact) -> None:
    text = " ".join(WellFormed(render(quantized)).text)
    for row in scope_rows(quantized.graph, quantized.weights):
        assert row.example in text and row.format in text
    assert "3 of 4 sites quantized" in text
    assert "only_uncalibrated: false" in text and "granularity: channel" in text


def test_errors_of_blocks_are_a_chart_in_the_order_of_the_model(quantized: Artifact) -> None:
    drawn = str(block_chart({"blocks.10": 0.4, "blocks.2": 0.125}, ["blocks.2", "blocks.10"]))
    shown = re.findall(r"<text[^>]*>([^<]*)</text>", drawn)
    assert shown == ["blocks.2", "blocks.10", "0.125", "0.4"]
    assert "var(--bar)" in drawn and "var(--alert)" not in drawn
    assert WellFormed(render(quantized)).attributes["aria-label"] == ["error per block"]


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_broken_error_has_the_colour_of_an_alert(broken: float) -> None:
    for errors in ({"a": 0.5, "b": broken}, {"b": broken}):
        drawn = str(block_chart(errors, ["a", "b"]))
        assert "var(--alert)" in drawn and f">{broken}</text>" in drawn
    assert block_chart({}, []) is None and ">0</text>" in str(block_chart({"a": 0.0}, ["a"]))


def test_what_was_not_measured_is_left_out(quantized: Artifact) -> None:
    bare = replace(quantized, metrics=RunMetrics(agreement=75.0, images=8))
    page = render(bare)
    text = " ".join(WellFormed(page).text)
    assert "No labelled images were given" in text and "8 calibration images" in text
    for absent in ("top-1", "peak memory", "Error per block", "Warnings", "None"):
        assert absent not in text
    assert [line.label for line in result_lines(RunMetrics(images=0), "w4a4")] == ["bits"]


def test_names_are_escaped(quantized: Artifact) -> None:
    page = render(named(quantized, "<script>alert('x')</script>&amp;"))
    assert "script" not in WellFormed(page).attributes
    assert "&lt;script&gt;alert(" in page
    assert "<script>alert('x')</script>&amp;, w3a5" in unescape(page)


def test_needs_nothing_but_itself(quantized: Artifact) -> None:
    page = render(quantized)
    attributes = WellFormed(page).attributes
    assert not {"src", "srcset", "link", "script"} & attributes.keys()
    assert all(target.startswith("#") for target in attributes["href"])
    assert not re.search(r"https?://|@import|url\((?!#)|//[a-z]", page)
    assert "prefers-color-scheme: dark" in page and "@media print" in page and "width=device-width" in page


def test_the_same_model_gives_the_same_bytes(quantized: Artifact, tmp_path: Path) -> None:
    first = write_report(tmp_path / "new" / "report.html", quantized)
    second = write_report(tmp_path / "again.html", quantized)
    assert first == tmp_path / "new" / "report.html"
    assert first.read_bytes() == second.read_bytes() == render(quantized).encode()


def test_a_reloaded_model_has_the_same_results(quantized: Artifact, tmp_path: Path) -> None:
    loaded = vitq.load(QuantizedModel(quantized).save(tmp_path / "artifact"))
    text = " ".join(WellFormed(render(loaded.artifact)).text)
    assert "79.3 %" in text and "dead-channel" in text and "model.safetensors" in text
    assert "12 min 34 s" not in text  # costs are no part of an artifact


def test_a_folder_that_cannot_be_written_is_an_artifact_error(quantized: Artifact, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match="cannot write"):
        write_report(tmp_path / "file" / "report.html", quantized)


def test_floating_point_rows_are_told_apart(quantized: Artifact) -> None:
    rows = scope_rows(quantized.graph, quantized.weights)
    assert replace(rows[0]).bits == 32  # the image
    assert render(quantized).count('<tr class="off">') == sum(row.bits == 32 for row in rows) == 1
