"""The verb, from a model to a quantized model, and from a folder to another budget."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import vitq
from vitq.allocation import Allocation
from vitq.bits import BitTable
from vitq.errors import AllocationError, ArgumentError, ArtifactError, RecipeError, ResumeError
from vitq.graph import Graph
from vitq.models import load_model
from vitq.recipes.bit_table import read_table
from vitq.run.run import Run

OPTIONS = {"recipe": "rtn", "candidates": (2, 4, 8), "progress": False}


@pytest.fixture(scope="module")
def folder(attend: nn.Module, images: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an allocation."""
    place = tmp_path_factory.mktemp("allocation") / "attend"
    vitq.allocate(attend, images, average_bits=5, out=place, **OPTIONS).save(place)
    return place


@pytest.fixture(scope="module")
def allocation(folder: Path) -> Allocation:
    return vitq.allocate(str(folder), average_bits=5, progress=False)


def test_averages_are_within_the_budget_and_the_curve_falls(allocation: Allocation) -> None:
    weights, activations = allocation.point.averages
    assert weights is not None and activations is not None
    assert 2 < weights <= 5 + 1e-9 and 2 < activations <= 5 + 1e-9
    assert set(allocation.bits.values()) <= {2, 4, 8} and len(set(allocation.bits.values())) > 1
    distances = [point.distance for point in allocation.curve]
    assert distances == sorted(distances, reverse=True) and len(distances) > 5


def test_the_size_is_that_of_the_artifact_to_the_byte(
    attend: nn.Module, images: torch.Tensor, folder: Path, tmp_path: Path
) -> None:
    (table,) = folder.glob("*.yaml")
    allocation = vitq.allocate(str(folder), average_bits=5, progress=False)
    model = vitq.quantize(attend, images, recipe="rtn", bits=table, out=tmp_path / "a", progress=False)
    stored = load_file(tmp_path / "a" / "model.safetensors")
    assert sum(tensor.nbytes for tensor in stored.values()) == allocation.costs["size_bytes"]
    held = {row.example: row.bits for row in model.scope_table()}
    assert all(allocation.bits.get(site, 32) == bits for site, bits in held.items())
    assert model.config.bits == allocation.label and model.config.bits.startswith("mixed w")
    assert "Bits over depth" in (tmp_path / "a" / "report.html").read_text()
    finished = vitq.quantize(
        attend, images, recipe="rtn", bits=str(table), out=tmp_path / "a", resume=True, progress=False
    )
    assert finished.config == model.config


def test_another_budget_needs_neither_model_nor_images(folder: Path, allocation: Allocation) -> None:
    small = vitq.allocate(str(folder), size_mb=0.0011, average_bits="a6", progress=False)
    assert small.costs["size_bytes"] <= 1100 and small.costs["average_activations"] <= 6
    path = small.save(folder)
    assert path.name != "bits.yaml" and read_table(path).sites == small.table.sites
    assert small.save(folder) == path  # the same table is the same file
    path.write_text(path.read_text() + "# edited\n")
    assert small.save(folder) != path
    with pytest.raises(AllocationError, match="the least is"):
        vitq.allocate(str(folder), size_mb=0.0001, progress=False)
    with pytest.raises(ArgumentError, match="leave the images out"):
        vitq.allocate(str(folder), torch.zeros(2, 3, 8, 8), size_mb=1, progress=False)
    with pytest.raises(ArgumentError, match="has its own candidates and target: leave them out"):
        vitq.allocate(str(folder), within=1, candidates=(8, 32), target="onnxruntime", progress=False)


def test_the_same_trials_are_not_run_again(
    attend: nn.Module, images: torch.Tensor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitq.allocation.run.start_run", lambda *_, **__: pytest.fail("measured again"))
    again = vitq.allocate(attend, images, average_bits=5, out=folder, **OPTIONS)
    assert again.bits == vitq.allocate(str(folder), average_bits=5, progress=False).bits
    with pytest.raises(ResumeError, match="other inputs"):
        vitq.allocate(attend, images + 1, average_bits=5, out=folder, **OPTIONS)


def test_trials_know_what_the_outputs_mean(
    attend: nn.Module, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Prepared(Exception):
        pass

    def prepare(run: Run, *_: object) -> None:
        raise Prepared(run.task_name)

    monkeypatch.setattr("vitq.allocation.run.prepare", prepare)
    with pytest.raises(Prepared, match="values"):
        vitq.allocate(replace(load_model(attend), task="values"), images, average_bits=5, **OPTIONS)


def test_evolution_measures_the_whole_model(attend: nn.Module, images: torch.Tensor, folder: Path) -> None:
    found = vitq.allocate(attend, images, average_bits=5, out=folder, solver="evolutionary", trials=5, **OPTIONS)
    assert found.measured is not None and found.measured > 0
    assert not found.problem.unmet(found.problem.highest * 0)


def test_an_edited_file_of_trials_is_noticed(folder: Path, tmp_path: Path) -> None:
    data = json.loads((folder / "sensitivities.json").read_text())
    data["fixed_bytes"] += 1
    (tmp_path / "sensitivities.json").write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match="hash"):
        vitq.allocate(str(tmp_path), size_mb=1, progress=False)


def test_a_glob_of_no_site_is_told_before_any_work(
    attend: nn.Module, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("bits: w4a4\nsites:\n  fk/weight: 2\n")
    monkeypatch.setattr(Graph, "insert", lambda *_: pytest.fail("worked"))
    with pytest.raises(RecipeError, match=r"own\.yaml': no site matches 'fk/weight'; did you mean 'fc/weight'"):
        vitq.quantize(attend, images, recipe="rtn", bits=path, progress=False)


def test_errors_come_before_the_model(images: torch.Tensor) -> None:
    for options, text in (
        ({}, "no budget"),
        ({"average_bits": 4, "solver": "greddy"}, "did you mean 'greedy'"),
        ({"average_bits": 4, "by": "outputs"}, "did you mean 'output'"),
    ):
        with pytest.raises(AllocationError, match=text):
            vitq.allocate("nothing", images, progress=False, **options)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="images are missing"):
        vitq.allocate("nothing", average_bits=4, progress=False)
    for name in ("average_bits", "size_mb", "bit_ops"):
        with pytest.raises(ArgumentError, match=f"{name} takes"):
            vitq.allocate("nothing", images, progress=False, **{name: 10**400})  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="candidates takes"):
        vitq.allocate("nothing", images, average_bits=5, candidates=(1, 9), progress=False)


def test_granularity_takes_no_table(images: torch.Tensor) -> None:
    from vitq.bits import Bits

    with pytest.raises(ArgumentError, match="bits takes bits such as"):
        vitq.granularity("nothing", images, bits=BitTable(Bits(4, 4)))  # type: ignore[arg-type]
