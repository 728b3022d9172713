"""The benchmark on a tiny model: every candidate is measured, and accuracy is that of the file."""

import io
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from vitq.bench import baselines
from vitq.bench.bench import Measured, bench, compile_candidates
from vitq.bench.peak_memory import added_peak_memory
from vitq.errors import ExportError
from vitq.export.build import build
from vitq.export.runtimes import compile_content
from vitq.graph import capture
from vitq.models import load_model
from vitq.report.exported import bench_table


def test_floating_point_artifacts_and_baselines_stand_side_by_side(
    models: dict[str, nn.Module], quantized: Callable[..., Any], images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys.modules["vitq.bench.bench"], "added_peak_memory", lambda *_: 2**20
    )  # a process for each row takes seconds
    plain_model, model = models["plain"], quantized("plain", "w8a8", target="openvino")
    labels = model(images).argmax(-1)
    rows = bench(
        {"mine": model}, images, batches=(1, 4), rounds=2, labelled=[(images, labels)], floating=load_model(plain_model)
    )
    names = {(row.runtime, row.name): row for row in rows}
    for runtime in ("onnxruntime", "openvino"):
        mine, plain = names[runtime, "mine"], names[runtime, "float32"]
        assert mine.integer_products == 3 and plain.integer_products == 0
        assert mine.size_bytes < plain.size_bytes
        assert mine.memory_bytes == 2**20
        assert mine.top1 == pytest.approx(100, abs=7)
        assert plain.ratios == {1: 1.0, 4: 1.0}
        assert all(time > 0 for time in mine.milliseconds.values())
    assert names["onnxruntime", "onnxruntime's own int8"].integer_products > 0


@pytest.mark.parametrize("flag", [None, "_is_avx512_bf16_supported", "_is_amx_tile_supported"])
def test_bfloat16_runs_only_where_the_cpu_multiplies_it(
    quantized: Callable[..., Any], images: torch.Tensor, monkeypatch: pytest.MonkeyPatch, flag: str | None
) -> None:
    """Without hardware OpenVINO would emulate it, four times as slow as without the hint."""
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name == flag)
    hints: list[tuple[str, bool]] = []

    def compiled(runtime: str, content: object, threads: int = 0, bfloat16: bool = False) -> None:
        hints.append((runtime, bfloat16))

    monkeypatch.setattr(sys.modules["vitq.bench.bench"], "compile_content", compiled)
    built: list[object] = []
    monkeypatch.setattr(sys.modules["vitq.bench.bench"], "build", lambda *given, **_: built.append(given) or b"")
    model = quantized("vit", "w8a8", target="openvino")
    names = {(c.runtime, c.name) for c in compile_candidates({"mine": model}, images, 1, baselines=False)}
    assert len(built) == 2, "floating point and one file for both runtimes: no product overflows"
    mixed = {("openvino", "bfloat16"), ("openvino", "mine + bfloat16")}
    assert {name for name in names if "bfloat16" in name[1]} == (mixed if flag else set())
    assert hints.count(("openvino", True)) == (2 if flag else 0) and ("onnxruntime", True) not in hints


def test_the_table_says_which_one_to_take_even_if_it_is_floating_point() -> None:
    rows = [
        Measured("bfloat16", "openvino", 9, 9, 0, {1: 2.0, 16: 9.0}, {1: 1.0, 16: 1.0}, None),
        Measured("mine", "onnxruntime", 5, 5, 7, {1: 3.0, 16: 8.0}, {1: 0.5, 16: 2.0}, 84.1),
    ]
    console = Console(file=io.StringIO(), width=120)
    console.print(bench_table(rows, 1))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "fastest at batch 1: bfloat16 in openvino" in shown
    assert "fastest at batch 16: mine in onnxruntime" in shown


def test_memory_is_what_a_process_of_its_own_takes(exported: Callable[..., Any], images: torch.Tensor) -> None:
    content = exported("plain", "w8a8", target="openvino", export={"target": "openvino"})[1].read_bytes()
    assert len(content) < added_peak_memory("openvino", content, images, 1, False) < 1e9


def test_a_name_of_another_row_is_refused(quantized: Callable[..., Any], images: torch.Tensor) -> None:
    with pytest.raises(ExportError, match="'float32' here: that is the name of another row"):
        bench({"float32": quantized("vit", "w8a8", target="openvino")}, images)


def test_a_file_for_other_cpus_is_measured_with_a_warning(
    quantized: Callable[..., Any], images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its speed is worth knowing, its accuracy here is not that of the CPUs that it is for."""
    from vitq.export import saturation
    from vitq.export.targets import Cpu
    from vitq.run.events import Events

    asked: list[Any] = []
    monkeypatch.setattr(saturation, "saturates", lambda runtime: True)
    monkeypatch.setattr(
        sys.modules["vitq.bench.bench"], "compile_candidates", lambda *given: asked.append(given[-1]) or []
    )
    with Events() as events:
        model = quantized("vit", "w8a8", target="onnxruntime", cpu="vnni")
        assert bench({"mine": model}, images, cpu="vnni", rounds=1, events=events) == []
    assert asked == [Cpu.VNNI]
    assert [name for name, text in events.warnings if "mine in onnxruntime: this CPU has no VNNI" in text]


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(ExportError, match="onnxruntime failed in a process of its own"):
        added_peak_memory("onnxruntime", b"no model", torch.zeros(1), 1, False)


def test_nncf_becomes_a_pair_of_files_and_keeps_standard_output_clean(
    models: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def quantize(model: object, data: list[object], **_: object) -> object:
        print(f"calibrating on {len(data)}")
        return model

    kinds = SimpleNamespace(TRANSFORMER="transformer")
    fake = SimpleNamespace(Dataset=list, ModelType=kinds, quantize=quantize)
    monkeypatch.setitem(sys.modules, "nncf", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(baselines, "find_spec", lambda package: package)
    plain, images = models["plain"].eval(), torch.randn(4, 3, 32, 32)
    content = baselines.nncf_static(build(capture(plain, images), {}, images, {}), images)
    assert isinstance(content, tuple)
    out, err = capsys.readouterr()
    assert out == "" and "calibrating on 4" in err
    torch.testing.assert_close(compile_content("openvino", content)(images)[0], plain(images), rtol=1e-3, atol=1e-4)
