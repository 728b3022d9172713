"""``vitq report`` and ``vitq diagnose``: pages anew, side by side, and before anything is quantized."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import vitq
from vitq.errors import ArgumentError, ArtifactError
from vitq.models import load_model


@pytest.fixture(scope="module")
def folders(one_block: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of one model on the same labelled images: one good, one bad."""
    torch.manual_seed(0)
    images, root = torch.randn(24, 3, 8, 8), tmp_path_factory.mktemp("runs")
    data = (images, one_block(images).argmax(-1))
    for bits in ("w8a8", "w2a2"):
        vitq.quantize(one_block, images, validation=data, recipe="rtn", bits=bits, out=root / bits, progress=False)
    return {bits: root / bits for bits in ("w8a8", "w2a2")}


RECIPE = b"<h2>Recipe, every default written out</h2>"
"""From here on a page lists what the configuration says; a saved one has its keys in another order."""


def test_a_run_gets_its_own_page_again(vitq_cli: Any, folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["w8a8"], tmp_path / "run")
    page = tmp_path / "run" / "report.html"
    first = page.read_bytes()
    page.unlink()
    result = vitq_cli("report", str(tmp_path / "run"))
    assert result.exit_code == 0 and str(page) in result.stdout
    assert page.read_bytes().partition(RECIPE)[0] == first.partition(RECIPE)[0]
    words = [sorted(re.findall(rb"[^\s<>]+", one)) for one in (page.read_bytes(), first)]
    assert words[0] == words[1]
    again = page.read_bytes()
    shown = json.loads(vitq_cli("report", str(tmp_path / "run"), "--out", str(tmp_path / "b.html"), "--json").stdout)
    assert Path(shown["page"]).read_bytes() == again


def test_the_page_begins_with_the_verdict_and_shows_every_part(folders: dict[str, Path]) -> None:
    page = (folders["w2a2"] / "report.html").read_text()
    titles = [
        "<h1>", 'class="verdict', "Results", "What to try next", "Error per block", "Bits over depth",
        "Error of each site", "Worst sites", "Images on which the models differ most", "Scope: paper",
    ]  # fmt: skip
    places = [page.index(title) for title in titles]
    assert places == sorted(places) and len(page) < 3_000_000
    assert page.count("data:image/jpeg") == 8 and page.count("data:image/png") == 16
    assert "affine per channel" in page and "McNemar" in page


def test_more_may_be_lost_where_that_is_said(folders: dict[str, Path], tmp_path: Path) -> None:
    strict = vitq.report(folders["w2a2"], out=tmp_path / "a.html").read_text()
    loose = vitq.report(folders["w2a2"], out=tmp_path / "b.html", within=100).read_text()
    assert 'class="verdict accept"' not in strict and 'class="verdict regression"' not in loose


def test_several_runs_are_compared_image_by_image(vitq_cli: Any, folders: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "both.html"
    result = vitq_cli("report", *map(str, folders.values()), "--out", str(out))
    assert result.exit_code == 0, result.output
    page = out.read_text()
    for words in ("2 runs compared", "w8a8: accept", "w2a2: ", "Against w8a8: -", "Accuracy against size", "<svg"):
        assert words in page
    assert vitq_cli("report", *map(str, folders.values()), "--out", str(out)).exit_code == 0


def test_nothing_of_the_users_is_overwritten_and_what_is_no_run_is_refused(
    vitq_cli: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<html>mine</html>")
    for runs in (["w8a8"], ["w8a8", "w2a2"]):
        refused = vitq_cli("report", *(str(folders[run]) for run in runs), "--out", str(mine))
        assert refused.exit_code == 4 and "was not written by vitq" in refused.stderr
    assert vitq_cli("report", str(tmp_path)).exit_code == 4
    assert mine.read_text() == "<html>mine</html>"
    with pytest.raises(ArtifactError):
        vitq.report(tmp_path / "none")
    with pytest.raises(ArgumentError, match="no folder"):
        vitq.report(vitq.load(folders["w8a8"]))


def test_a_damaged_log_shows_less_and_a_damaged_evidence_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["w8a8"], tmp_path / "run")
    (tmp_path / "run" / "events.jsonl").write_bytes(b"\xff{\n[]\n")
    assert vitq.report(tmp_path / "run").exists()
    (tmp_path / "run" / "report.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"report\.json is damaged"):
        vitq.report(tmp_path / "run")


def test_a_diagnosis_is_a_table_json_and_a_page(
    vitq_cli: Any, one_block: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(one_block, preprocessing={"input_size": (3, 8, 8)})
    monkeypatch.setattr(
        "vitq.api.looking.load_source", lambda *_: loaded
    )  # the smallest model that has a name is not small
    photos, out = tmp_path / "photos", tmp_path / "page.html"
    photos.mkdir()
    for number in range(6):
        noise = torch.randint(256, (40, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        Image.fromarray(noise.numpy()).save(photos / f"{number}.png")
    line = ["diagnose", "small", "--images", str(photos), "--limit", "6", "--out", str(out)]
    result = vitq_cli(*line, "--bits", "w4a8", "--scope", "deploy", "--json", "--quiet")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["bits"] == "w4a8" and data["images"] == 6 and data["distance"] > 0
    assert data["sanity"]["classes"] == 5 and {view["name"] for view in data["sanity"]["crops"]} == {
        "mirrored",
        "closer",
    }
    assert data["sites"] and not any(site.endswith("/query") for site in data["sites"])
    page = out.read_text()
    for words in ("before it is quantized", "Does the preprocessing fit?", "What will be hard", "Each site left out"):
        assert words in page
    out.write_text("<html>mine</html>")
    assert vitq_cli(*line).exit_code == 4 and out.read_text() == "<html>mine</html>"
