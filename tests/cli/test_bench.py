"""``vitq bench`` on a tiny artifact: what it runs, and the two ways to read it."""

import importlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import vitq
from vitq.errors import ArgumentError, ExportError, VitqError
from vitq.evaluation import Metrics
from vitq.report.exported import bench_table

measurement = importlib.import_module("vitq.bench.bench")


pytestmark = pytest.mark.usefixtures("one_library_of_operators")


class Small(nn.Module):
    """Patches, a linear behind a norm and a head, all that a row of the table needs: x_BCHW of 3x8x8 to 8 logits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.norm, self.fc, self.head = (
            nn.Conv2d(3, 8, 4, 4),
            nn.LayerNorm(8),
            nn.Linear(8, 8),
            nn.Linear(8, 8),
        )

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BTC = self.patch(x_BCHW).flatten(2).transpose(1, 2)
        logits_BK: torch.Tensor = self.head((x_BTC + self.fc(self.norm(x_BTC))).mean(1))
        return logits_BK


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    model = vitq.quantize(Small(), images, recipe="rtn", bits="w4a8", target="onnxruntime", progress=False)
    return model.save(tmp_path_factory.mktemp("bench") / "w4a8")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("photos") / "photos.npz"
    np.savez(path, images=random.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8), labels=np.arange(8))
    return path


def test_every_measure_is_in_the_json_and_every_row_in_the_table(
    vitq_cli: Any, run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurement, "added_peak_memory", lambda *_: 2**20)  # a process for each row takes seconds
    monkeypatch.setattr(measurement, "bench", _once(measurement.bench))  # both readings are of one measurement
    quick = ("--images", str(photos), "--limit", "4", "--rounds", "1", "--batch", "1", "--no-baselines", "--quiet")
    result = vitq_cli("bench", str(run), *quick, "--validation", str(photos), "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert (data["threads"], data["rounds"]) == (1, 1)
    rows = {(row["runtime"], row["name"]): row for row in data["rows"]}
    assert {("onnxruntime", "float32"), ("onnxruntime", "w4a8")} <= set(rows)
    measures = "integer_products memory_bytes milliseconds name ratios runtime scores size_bytes top1"
    for row in rows.values():
        assert sorted(row) == measures.split()
        assert row["milliseconds"]["1"] > 0 and 0 <= row["top1"] == row["scores"]["top1"] <= 100
    assert rows["onnxruntime", "float32"]["ratios"] == {"1": 1.0}
    assert rows["onnxruntime", "w4a8"]["integer_products"] == 2

    table = vitq_cli("bench", str(run), *quick)
    assert table.exit_code == 0, table.output
    for text in ("median milliseconds a batch, 1 thread", "float32", "w4a8", "fastest at batch 1"):
        assert text in table.output


def test_the_folder_of_a_run_keeps_how_fast_it_is_and_its_report_says_it(
    vitq_cli: Any, run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "w4a8"
    shutil.copytree(run, folder)
    rows = [
        measurement.Measured(name, "onnxruntime", 1, 1, 4, {1: time}, {1: 3.0 / time}, None)
        for name, time in (("float32", 3.0), ("w4a8", 2.0), ("another", 1.0))
    ]
    monkeypatch.setattr(measurement, "bench", lambda *_, **__: rows)
    monkeypatch.setattr(importlib.import_module("vitq.bench.saved").platform, "processor", lambda: "a <processor>")
    vitq.bench(folder, photos, threads=2, progress=False)
    kept = json.loads((folder / "bench.json").read_text())
    assert [row["name"] for row in kept["rows"]] == ["float32", "w4a8"] and kept["threads"] == 2
    page = vitq.report(folder).read_text()
    assert "2.0 ms a batch of 1 in onnxruntime, 2 threads: 1.50 times the speed of float32" in page
    assert "a &lt;processor&gt;" in page and "No speed was measured" not in page
    (folder / "bench.json").write_text("mine")
    result = vitq_cli("bench", str(folder), "--images", str(photos))
    assert result.exit_code == 0 and "not-kept" in result.stderr and (folder / "bench.json").read_text() == "mine"
    assert vitq_cli("report", str(folder)).exit_code == 4
    (folder / "bench.json").write_text(json.dumps({**kept, "model": "another"}))
    assert "No speed was measured" in vitq.report(folder).read_text()


def test_the_table_tells_the_score_of_the_task() -> None:
    metrics = Metrics(8, agreement=97.0, scores={"pixels": 80.0, "miou": 61.24})
    assert list(measurement.scored(metrics, "miou")) == ["miou", "pixels"]
    assert measurement.scored(Metrics(8, top1=50.0, top5=90.0), "top1") == {"top1": 50.0, "top5": 90.0}
    row = measurement.Measured("w8a8", "openvino", 1, 1, 4, {1: 2.0}, {1: 1.5}, None, {"miou": 61.24, "pixels": 80.0})
    console = Console(file=io.StringIO(), width=160)
    console.print(bench_table([row], 1))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "mIoU" in shown and "61.2 %" in shown and "top-1" not in shown


def _once(bench: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    measured: list[Any] = []

    def stand_in(*arguments: Any, **options: Any) -> list[Any]:
        measured.extend([] if measured else bench(*arguments, **options))
        return measured

    return stand_in


def test_artifacts_that_do_not_exist_end_in_their_own_exit_code(vitq_cli: Any, photos: Path, tmp_path: Path) -> None:
    assert vitq_cli("bench", str(tmp_path / "none"), "--images", str(photos)).exit_code == 4


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace the measurement by one that remembers what it was given."""
    seen: list[Any] = []
    monkeypatch.setattr(measurement, "bench", lambda artifacts, *_, **options: seen.append((artifacts, options)) or [])
    return seen


def test_two_runs_of_one_name_are_two_rows(
    vitq_cli: Any, run: Path, photos: Path, tmp_path: Path, measured: list[Any]
) -> None:
    for folder in ("a/deit", "b/deit", "b/other", "float32"):
        shutil.copytree(run, tmp_path / folder)
    runs = [str(tmp_path / folder) for folder in ("a/deit", "b/deit", "b/other", "float32")]
    result = vitq_cli("bench", *runs, "--images", str(photos), "--cpu", "vnni", "--quiet", "--json")
    assert result.exit_code == 0, result.output
    ((artifacts, options),) = measured
    assert list(artifacts) == [str(Path("a/deit")), str(Path("b/deit")), "other", str(Path(tmp_path.name, "float32"))]
    assert options["cpu"] == "vnni"


def test_one_run_named_twice_is_refused(vitq_cli: Any, run: Path, photos: Path, measured: list[Any]) -> None:
    result = vitq_cli("bench", str(run), str(run / ".." / run.name), "--images", str(photos))
    assert result.exit_code == 3 and "is named twice" in result.output and not measured


def test_the_python_verb_takes_folders_models_and_names(run: Path, photos: Path, measured: list[Any]) -> None:
    import vitq.bench.baselines  # a package of the verb's name does not take its place

    model = vitq.load(run)
    for runs in (run, [str(run)], model, [run, model], {"mine": model, "theirs": run}):
        vitq.bench(runs, photos, batch=2, progress=False)
    named = [list(artifacts) for artifacts, _ in measured]
    made_of = f"{model.config.source['name']}-rtn-w4a8"
    assert named == [["w4a8"], ["w4a8"], [made_of], ["w4a8", made_of], ["mine", "theirs"]]
    assert measured[0][1]["batches"] == (2,) and measured[0][1]["floating"] is None
    assert measured[2][0][made_of] is model.artifact


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"runs": []}, ArgumentError, "runs takes folders of artifacts"),
        ({"runs": 3}, ArgumentError, "runs takes folders of artifacts"),
        ({"runs": {}}, ArgumentError, "runs takes folders of artifacts"),
        ({"runs": torch.nn.Identity()}, ArgumentError, "runs takes folders of artifacts"),
        ({"images": "nowhere"}, VitqError, "nowhere"),
        ({"batch": 0}, ArgumentError, "batch takes batch sizes"),
        ({"batch": []}, ArgumentError, "batch takes batch sizes"),
        ({"batch": [1, "2"]}, ArgumentError, "batch takes batch sizes"),
        ({"threads": 0}, ArgumentError, "threads takes a whole number from 1"),
        ({"rounds": True}, ArgumentError, "rounds takes a whole number from 1"),
        ({"baselines": 1}, ArgumentError, "baselines takes True or False"),
        ({"cpu": 3}, ArgumentError, r"cpu takes .*'any' or 'vnni'"),
        ({"cpu": "vni"}, ExportError, "did you mean 'vnni'"),
        ({"weights": __file__}, ArgumentError, "name it with floating"),
    ],
)
def test_a_wrong_argument_of_the_verb_is_refused_before_anything_is_measured(
    photos: Path, options: dict[str, Any], error: type[VitqError], words: str
) -> None:
    given = {"runs": "no such run is loaded", "images": photos, **options}
    with pytest.raises(error, match=words):
        vitq.bench(given.pop("runs"), given.pop("images"), progress=False, **given)


def test_a_model_that_is_given_twice_needs_names(run: Path, photos: Path) -> None:
    model = vitq.load(run)
    with pytest.raises(ExportError, match="two runs have the name"):
        vitq.bench([model, model], photos, progress=False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--weights", "{photos}"), "name it with floating"),
        (("--threads", "99999999"), "threads takes a whole number from 1 to 1,024"),
        (("--rounds", "99999999999999999999"), "rounds takes a whole number"),
        (("--batch", "99999999"), "batch takes batch sizes"),
        (("--validation", ""), "validation takes"),
    ],
)
def test_arguments_are_checked_before_a_run_is_loaded(
    vitq_cli: Any, photos: Path, options: tuple[str, ...], said: str
) -> None:
    given = [option.format(photos=photos) for option in options]
    result = vitq_cli("bench", "no/such/run", "--images", str(photos), *given)
    assert result.exit_code == 2 and said in result.stderr


def test_an_empty_run_is_not_the_working_directory(
    vitq_cli: Any, run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    for arguments in (("bench", ""), ("export", "", "--out", "x.onnx"), ("export", ".", "--out", "")):
        result = vitq_cli(*arguments, "--images", str(photos))
        assert result.exit_code == 2 and "takes" in result.stderr, result.output
    assert vitq_cli("seal", "").exit_code == 2
    assert not (run / "x.onnx").exists()
