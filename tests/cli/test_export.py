"""``vitq export``: words in, one call, a table or JSON out."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import vitq

pytest.importorskip("onnxscript")

from vitq.export import Exported
from vitq.export.accuracy import EndToEnd
from vitq.export.parity import SegmentProof

RUN = ("export", "runs/deit", "--images", "photos", "--out", "deit.onnx")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace loading by a model that remembers its export."""
    seen: list[Any] = []

    def export(out: Path, images: str, **options: Any) -> Exported:
        seen.append((out, images, options))
        proofs = (SegmentProof("blocks.0", 8, 0.0, 3e-8),)
        end = EndToEnd(64, 98.4, 100.0, 83.9, 84.0, 84.1, 2e-7)
        return Exported(out, options["target"], 5_000_000, 49, 49, proofs, end, ("a note",))

    monkeypatch.setattr(vitq, "load", lambda path: SimpleNamespace(export=export), raising=False)
    return seen


def test_options_reach_the_model(vitq_cli: Any, calls: list[Any]) -> None:
    result = vitq_cli(*RUN, *["--target", "openvino", "--opset", "22", "--limit", "8", "--force", "--quiet"])
    assert result.exit_code == 0, result.output
    none = {"validation": None, "floating": None, "weights": None}
    options = {"target": "openvino", "opset": 22, "limit": 8, "force": True, "progress": False, **none}
    assert calls == [(Path("deit.onnx"), "photos", options)]


def test_the_table_says_what_is_proven(vitq_cli: Any, calls: list[Any]) -> None:
    shown = vitq_cli(*RUN).output
    for text in (
        "blocks.0",
        "49 products in integer kernels (49 promised)",
        "98.4 %",
        "83.9 %",
        "84.1 %, 2e-07 off",
        "a note",
        "deit.onnx",
    ):
        assert text in shown


def test_json(vitq_cli: Any, calls: list[Any]) -> None:
    data = json.loads(vitq_cli(*RUN, "--json").stdout)
    assert data["integer_products"] == 49 and data["segments"][0]["name"] == "blocks.0"


def test_an_unknown_target_is_told_before_anything_is_read(vitq_cli: Any, calls: list[Any]) -> None:
    result = vitq_cli(*RUN, "--target", "openvin")
    assert result.exit_code != 0 and "did you mean 'openvino'" in result.output
    assert calls == []


def test_an_impossible_opset_is_told_before_anything_is_read(vitq_cli: Any, calls: list[Any]) -> None:
    result = vitq_cli(*RUN, "--opset", "17")
    assert result.exit_code == 3 and "opset 17 is not possible, 21 to 25 are" in result.stderr
    assert calls == []
