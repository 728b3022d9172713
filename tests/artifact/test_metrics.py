"""``RunMetrics`` is the schema of ``metrics.json``: typed, frozen, documented, and the same bytes for the same run."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

import vitq
from vitq.artifact.artifact import read, write
from vitq.artifact.files import digest, to_json_bytes
from vitq.artifact.metrics import COSTS, LEFT_OUT, RunMetrics
from vitq.artifact.sealing import SEALED, make_seal
from vitq.errors import ArtifactError


def change(folder: Path, values: dict[str, Any]) -> None:
    """Write a ``metrics.json`` and seal it, as whoever edits an artifact can."""
    (folder / "metrics.json").write_bytes(to_json_bytes(values))
    (folder / "seal.json").write_bytes(make_seal({name: (folder / name).read_bytes() for name in SEALED}))


@pytest.fixture
def folder(small_artifact: Path, tmp_path: Path) -> Path:
    """A copy of an artifact."""
    write(tmp_path / "copy", read(small_artifact))
    return tmp_path / "copy"


def test_what_is_written_is_what_is_read(folder: Path) -> None:
    artifact = read(folder)
    written = json.loads((folder / "metrics.json").read_text())
    assert set(written) == set(RunMetrics.model_fields) - {*LEFT_OUT} | {"size_bytes"}
    assert RunMetrics.model_validate(written) == artifact.metrics
    again = write(folder.parent / "again", artifact)
    assert digest((folder.parent / "again" / "metrics.json").read_bytes()) == digest(to_json_bytes(written))
    assert again.metrics == artifact.metrics and again.config == artifact.config


def test_costs_stand_beside_the_artifact_and_are_known_to_the_run_that_had_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 1))
    model = vitq.quantize(
        net, torch.randn(8, 3, 4, 4), recipe="rtn", bits="w4a4", limit=8, progress=False, out=tmp_path / "run"
    )
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    costs = json.loads((tmp_path / "run" / "run.json").read_text())
    assert set(costs) == {*COSTS} and not set(metrics) & {*COSTS}
    assert costs == {name: getattr(model.metrics, name) for name in COSTS}
    assert metrics["agreement"] is None and metrics["cosine"] == model.metrics.cosine is not None
    assert vitq.load(tmp_path / "run").metrics == model.metrics.without_costs()


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"images": "8"},
        {"images": True},
        {"images": 8, "top1": "84"},
        {"images": 8, "accuracy": 84.0},
        {"images": 8, "segment_errors": [0.1]},
        {"images": 8, "segment_errors": {"a": None}},
        {"images": 8, "warnings": [["name"]]},
        {"images": 8, "warnings": [["name", 3]]},
    ],
)
def test_metrics_of_other_keys_or_types_are_refused_by_name(folder: Path, values: dict[str, Any]) -> None:
    change(folder, values)
    for verb in (vitq.load, vitq.seal):
        with pytest.raises(ArtifactError, match=r"metrics\.json is damaged"):
            verb(folder)


def test_what_a_run_may_warn_of_is_kept_as_it_is(folder: Path) -> None:
    """A file's name may be no Unicode text, an error may be no number."""
    change(
        folder, {"images": 0, "warnings": [["few-images", "photo\udcff.jpg"]], "segment_errors": {"a": float("nan")}}
    )
    metrics = vitq.load(folder).metrics
    assert metrics.warnings == (("few-images", "photo\udcff.jpg"),) and metrics.top1 is None
    assert str(metrics.segment_errors["a"]) == "nan"
    saved = write(folder.parent / "again", dataclasses.replace(read(folder), metrics=metrics))
    assert read(folder.parent / "again").metrics.warnings == saved.metrics.warnings == metrics.warnings


def test_metrics_and_artifacts_are_not_changed_but_replaced(small_artifact: Path) -> None:
    artifact = read(small_artifact)
    with pytest.raises(ValidationError, match="frozen"):
        artifact.metrics.top1 = 100.0  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        artifact.metrics = RunMetrics(images=1)  # type: ignore[misc]
    model = vitq.QuantizedModel(dataclasses.replace(artifact, metrics=RunMetrics(images=1)))
    assert model.metrics.images == 1 and model.graph is artifact.graph and model.config is artifact.config


def test_the_documentation_has_the_table_of_the_code(script: Callable[[str], ModuleType]) -> None:
    document = script("document")
    page = document.PAGE.read_text(encoding="utf-8")
    assert page == document.with_table(page), "run: PYTHONPATH=src python scripts/document.py"
    for name, field in RunMetrics.model_fields.items():
        assert field.description and f"| `{name}`" in page
