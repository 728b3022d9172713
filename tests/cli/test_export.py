"""``vitq export``: words in, one call, a table or JSON out."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import vitq

pytest.importorskip("onnxscript")

from vitq.export.export import Exported
from vitq.export.targets import Cpu
from vitq.export.verify.outputs import EndToEnd
from vitq.export.verify.segments import SegmentProof
from vitq.report.exported import export_table

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
    options = {"target": "openvino", "opset": 22, "cpu": "any", "limit": 8, "force": True, "progress": False, **none}
    assert calls == [("deit.onnx", "photos", options)]


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


def test_a_kind_of_cpu_is_told_apart(vitq_cli: Any, calls: list[Any]) -> None:
    assert vitq_cli(*RUN, "--cpu", "vnni").exit_code == 0 and calls[0][2]["cpu"] == "vnni"
    assert vitq_cli(*RUN, "--cpu", "avx9").exit_code == 2
    result = vitq_cli(*RUN, "--target", "coreml", "--cpu", "vnni")
    assert result.exit_code == 3 and "runs on no x86 CPU" in result.stderr
    assert len(calls) == 1


def test_one_output_and_the_cpus_of_a_file_stand_in_the_table() -> None:
    proofs = (SegmentProof("blocks.0", 8, 0.0, 3e-8),)
    single = EndToEnd(64, None, None, None, None, relative_error=0.0012, self_error=0.0003)
    console = Console(file=io.StringIO(), width=160)
    console.print(export_table(Exported(Path("m"), "onnxruntime", 1, 49, 49, proofs, single, (), Cpu.ANY)))
    shown = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "outputs are 0.0012 off the simulation's on 64 images (0.0003 for the simulation" in shown
    assert "for every CPU" in shown and "top-1" not in shown


def test_an_unknown_target_is_told_before_anything_is_read(vitq_cli: Any, calls: list[Any]) -> None:
    result = vitq_cli(*RUN, "--target", "openvin")
    assert result.exit_code != 0 and "did you mean 'openvino'" in result.output
    assert calls == []


def test_an_impossible_opset_is_told_before_anything_is_read(vitq_cli: Any, calls: list[Any]) -> None:
    result = vitq_cli(*RUN, "--opset", "17")
    assert result.exit_code == 3 and "opset 17 is not possible, 21 to 25 are" in result.stderr
    assert calls == []
