"""``vitq granularity``: the choice of a slicing as tables, as JSON and as a picture."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vitq.graph import Span
from vitq.reconstruct import Choice
from vitq.reconstruct.slicing.outliers import Outliers
from vitq.reconstruct.slicing.schedule import Piece
from vitq.reconstruct.slicing.slicings import Slicing

RUN = ("granularity", "deit_tiny_patch16_224", "--images", "photos")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replace the Python verb by one that remembers its arguments."""
    import vitq.slicing

    seen: list[dict[str, Any]] = []
    profile = (Outliers("blocks.0.attn", "a", 0.25, 90.0), Outliers("blocks.0.mlp", "b", 0.0, 3.0))
    best = Slicing("outliers-0.5", (Piece("outliers-0.5", Span("blocks.0", "x", "b", "x")),))

    def measure(model: str, images: str, **options: Any) -> Choice:
        seen.append({"model": model, "images": images, **options})
        return Choice(profile, {"unit": 0.5, "outliers-0.5": 0.25}, best)

    monkeypatch.setattr(vitq.slicing, "granularity", measure)
    return seen


def test_options_reach_the_python_verb(vitq_cli: Any, calls: list[dict[str, Any]]) -> None:
    result = vitq_cli(
        *RUN, *["--bits", "w2a2", "--limit", "64", "--seed", "3", "--set", "reconstruct.choose.steps=5", "--quiet"]
    )
    assert result.exit_code == 0, result.output
    (call,) = calls
    assert (call["model"], call["images"], call["recipe"]) == ("deit_tiny_patch16_224", "photos", "oas")
    assert (call["bits"], call["limit"], call["seed"], call["progress"]) == ("w2a2", 64, 3, False)
    assert call["overrides"] == {"reconstruct.choose.steps": 5}


def test_tables_show_outliers_and_trials(vitq_cli: Any, calls: list[dict[str, Any]]) -> None:
    shown = vitq_cli(*RUN).output
    for text in ("blocks.0.attn", "25.00 %", "90.0", "outliers-0.5", "best", "cut", "█"):
        assert text in shown


def test_json_holds_everything(vitq_cli: Any, calls: list[dict[str, Any]]) -> None:
    data = json.loads(vitq_cli(*RUN, "--json").stdout)
    assert data["best"] == "outliers-0.5" and data["segments"] == ["blocks.0"]
    assert data["scores"] == {"unit": 0.5, "outliers-0.5": 0.25}
    assert data["outliers"][0] == {"name": "blocks.0.attn", "cut": "a", "share": 0.25, "ratio": 90.0}


def test_plots_are_saved_as_svg_and_nothing_else(vitq_cli: Any, calls: list[dict[str, Any]], tmp_path: Path) -> None:
    assert vitq_cli(*RUN, "--out", str(tmp_path / "plots.svg")).exit_code == 0
    assert "<svg" in (tmp_path / "plots.svg").read_text()
    refused = vitq_cli(*RUN, "--out", str(tmp_path / "plots.png"))
    assert refused.exit_code == 2 and ".svg" in refused.output
    assert len(calls) == 1
    assert vitq_cli(*RUN, "--out", str(tmp_path / "plots.svg")).exit_code == 0  # its own is replaced


def test_a_picture_of_the_users_own_stays(vitq_cli: Any, calls: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "mine.svg").write_text("<svg>mine</svg>")
    refused = vitq_cli(*RUN, "--out", str(tmp_path / "mine.svg"))
    assert refused.exit_code == 4 and "was not written by vitq" in refused.stderr
    assert (tmp_path / "mine.svg").read_text() == "<svg>mine</svg>"
    for out in ("", "x" * 5000 + ".svg", str(tmp_path / "no" / "plots.svg")):
        assert vitq_cli(*RUN, "--out", out).exit_code == 2
    assert not calls


def test_the_verb_runs_on_a_real_model_and_folder(vitq_cli: Any, tmp_path: Path) -> None:
    for number in range(10):
        noise = torch.randint(256, (64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        Image.fromarray(noise.numpy()).save(tmp_path / f"{number}.png")
    line = (
        f"granularity test_vit --weights random --images {tmp_path} --limit 10 --device cpu --json "
        "--set reconstruct.choose.steps=0 --set reconstruct.choose.among=[block,network] "
        "--set reconstruct.choose.outlier_quantiles=[]"
    )
    result = vitq_cli(*line.split())
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert set(data["scores"]) == {"block", "network"} and data["best"] in data["scores"]
    assert len(data["outliers"]) == 14 and all(0 <= place["share"] <= 1 for place in data["outliers"])
