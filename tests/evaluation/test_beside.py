"""A quantized model beside the original: calibration, classes, intervals, and the command that prints them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import vitq
from vitq.cli import app
from vitq.cli.baseline import baseline_tables
from vitq.errors import ArtifactError
from vitq.evaluation import Metrics
from vitq.evaluation.beside import Beside, beside, calibration_error
from vitq.evaluation.outcomes import Outcomes
from vitq.run.progress import wide_console


def outcomes(predicted: list[int], labels: list[int], confidence: list[float] | None = None) -> Outcomes:
    given = torch.tensor(confidence or [0.5] * len(labels))
    return Outcomes(torch.tensor(labels), torch.tensor(predicted), given, torch.ones(len(labels), dtype=torch.bool))


def test_the_calibration_error_is_the_mean_gap_of_its_bins() -> None:
    found = outcomes([0, 0, 0, 0], [0, 1, 0, 0], [0.95, 0.95, 0.55, 1.0])
    gaps = (abs(2 - 0.95 - 0.95 - 1.0), abs(1 - 0.55))  # 0.95 twice and 1.0 share the last bin: (14/15, 1]
    assert calibration_error(found) == pytest.approx(100 * sum(gaps) / 4, abs=1e-4)


def test_losses_are_paired_by_image_and_told_by_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    labels = [0] * 50 + [1] * 50
    theirs = outcomes(labels, labels)
    mine = outcomes([0] * 40 + [1] * 60, labels)
    found = beside(Metrics(100, top1=90.0), mine, Metrics(100, top1=100.0), theirs)
    assert found.difference == pytest.approx(-10) and found.p == pytest.approx(2 * 0.5**10) and not found.within_noise
    low, high = found.difference_interval or (0, 0)
    assert low == pytest.approx(-15.89, abs=0.01) and high == pytest.approx(-3.72, abs=0.01)
    assert [(own.label, own.lost) for own in found.classes] == [(0, 20.0), (1, 0.0)]
    assert (found.interval or (0, 0))[0] < 90 < (found.interval or (0, 0))[1]
    console = wide_console()
    with console.capture() as capture:
        console.print(baseline_tables(found))
    text = capture.get()
    assert "100.0 % (96.3 to 100.0)" in text and "-10.00 (-15.89 to -3.72)" in text and "is no chance" in text


def test_other_tasks_have_the_metrics_alone() -> None:
    found = beside(Metrics(4, scores={"mae": 1.0}), None, Metrics(4, scores={"mae": 0.5}), None)
    assert found.floating == Metrics(4, scores={"mae": 0.5}) and found.p is None and found.classes == ()
    baseline_tables(found)


def test_an_artifact_is_measured_beside_its_original(small: nn.Module, small_artifact: Path) -> None:
    x_NCHW = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels_N = small.eval()(x_NCHW).argmax(-1)
    images: Any = (x_NCHW, labels_N)
    found = vitq.evaluate(small_artifact, images, baseline=small, progress=False)
    assert isinstance(found, Beside) and found.floating is not None
    assert found.floating.top1 == 100.0 and found.top1 == vitq.evaluate(small_artifact, images, progress=False).top1
    assert found.agreement == found.top1 and sum(own.images for own in found.classes) == 40
    with pytest.raises(ArtifactError, match="made of a module, which no name loads"):
        vitq.evaluate(small_artifact, images, baseline=True, progress=False)
    torch.manual_seed(9)
    with pytest.raises(ArtifactError, match="is not the model that this artifact was made of"):
        vitq.evaluate(small_artifact, images, baseline=type(small)(), progress=False)
    with pytest.raises(ArtifactError, match="no artifact"):
        vitq.evaluate(small, images, baseline=True, progress=False)


def test_the_command_prints_both_and_json_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    labels = [0, 1, 2, 2]
    found = beside(
        Metrics(4, 75.0, 100.0, 75.0),
        outcomes([0, 1, 2, 0], labels),
        Metrics(4, 100.0, 100.0),
        outcomes(labels, labels),
    )
    seen: dict[str, Any] = {}

    def evaluate(*_: Any, **options: Any) -> Beside:
        seen.update(options)
        return found

    monkeypatch.setattr("vitq.api.evaluate", evaluate)

    def run(*more: str) -> Any:
        return CliRunner().invoke(app, ["evaluate", "run", "--images", ".", "--baseline", *more])

    shown = run("--weights", "w.pth", "--workers", "3")
    assert shown.exit_code == 0 and "expected calibration error" in shown.stdout and "may be chance" in shown.stdout
    assert seen["baseline"] is True and seen["weights"] == "w.pth" and seen["workers"] == 3
    plain = json.loads(run("--json").stdout)
    assert plain["floating"]["top1"] == 100.0 and plain["classes"][0] == {
        "label": 2,
        "images": 2,
        "fp_correct": 2,
        "correct": 1,
    }
