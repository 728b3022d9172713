import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vitq
from vitq.errors import ArgumentError, ArtifactError, DataError, ExportError, ModelError, RecipeError, ResumeError
from vitq.quantizers import packed_size
from vitq.recipes import list_recipes, load_recipe
from vitq.run.checkpoints import Checkpoints

QUICK = {"reconstruct.steps": 4, "reconstruct.batch": 8, "reconstruct.evaluation.held_out": 8}


@pytest.fixture(scope="module")
def vit(tiny: Callable[..., nn.Module]) -> nn.Module:
    return tiny("vit", depth=1)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def quantize(vit: nn.Module, images: torch.Tensor) -> Callable[..., vitq.QuantizedModel]:
    def run(recipe: str = "rtn", **options: Any) -> vitq.QuantizedModel:
        overrides = QUICK if recipe not in ("rtn", "repq") else {}
        if recipe == "oas":
            overrides = {**QUICK, "reconstruct.choose.steps": 2, "reconstruct.choose.held_out": 8}
        options = {"bits": "w4a4", "overrides": overrides, "progress": False, **options}
        return vitq.quantize(vit, images, recipe=recipe, **options)

    return run


FILES = ("config.json", "graph.json", "model.safetensors", "metrics.json")


@pytest.fixture(scope="module")
def whole(vit: nn.Module, images: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a learnt artifact of seed 3 that was written in one go."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    vitq.quantize(vit, images, recipe="mgrq", bits="w4a4", overrides=QUICK, out=folder, seed=3, progress=False)
    return {file: (folder / file).read_bytes() for file in FILES}


WINDOWED = ("repq", "adalog", "pfcr")
"""Recipes that run on windows and stages too: scales move through their partition, searches, every schedule."""


def test_a_target_has_a_scope_of_its_own(quantize: Callable[..., vitq.QuantizedModel]) -> None:
    assert quantize(target="openvino", bits="w8a8").config.scope == "deploy"
    assert quantize(target="openvino", scope="deploy").config.scope == "deploy"
    assert quantize(target="onnxruntime", bits="w8a8", scope="paper").config.scope == "paper"
    with pytest.raises(ExportError, match="of scope deploy, not paper"):
        quantize(target="openvino", scope="paper")


@pytest.mark.parametrize(
    ("recipe", "family", "depth"),
    [
        *((recipe.name, "vit", {"depth": 1, "embed_dim": 24}) for recipe in list_recipes()),
        *((recipe, "swin", {"depths": (2, 1)}) for recipe in WINDOWED),
    ],
)
def test_every_recipe_runs_as_it_is(
    tiny: Callable[..., nn.Module], images: torch.Tensor, recipe: str, family: str, depth: dict[str, Any]
) -> None:
    if recipe == "quantune":
        pytest.importorskip("xgboost", reason="solver quantune needs the extra vitq[search]")
    names = {step.step_name for step in load_recipe(recipe).steps}
    overrides: dict[str, Any] = {"calibrate.images": 4} if "calibrate" in names else {}
    if "reconstruct" in names:
        overrides |= {**QUICK, "reconstruct.steps": 2}
    if "allocate" in names:
        overrides |= {"allocate.candidates": [3, 5], "allocate.trials": 8}
    if recipe == "oas":
        overrides |= {"reconstruct.choose.steps": 1, "reconstruct.choose.held_out": 8}
    model = vitq.quantize(
        tiny(family, **depth), images[:16], recipe=recipe, bits="w4a4", overrides=overrides, progress=False
    )
    assert torch.isfinite(model(images)).all()
    assert 0 < model.metrics.mean_segment_error < 1


@pytest.mark.parametrize("recipe", ["rtn", "repq", "mgrq", "pfcr"])
def test_what_is_quantized_by_any_kind_of_recipe_reloads_bit_for_bit(
    quantize: Callable[..., vitq.QuantizedModel], images: torch.Tensor, tmp_path: Path, recipe: str
) -> None:
    model = quantize(recipe, out=tmp_path / "run", bits="w3a4")
    again = vitq.load(tmp_path / "run")
    assert torch.equal(model(images), again(images))
    assert again.config == model.config
    assert again.metrics.agreement == model.metrics.agreement
    assert next(row for row in again.scope_table() if row.kind == "weight").bits == 3
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert "<html" in (tmp_path / "run" / "report.html").read_text()


def test_reloads_in_a_new_process_without_timm(
    quantize: Callable[..., vitq.QuantizedModel], images: torch.Tensor, tmp_path: Path
) -> None:
    """The verbs need none of the packages that write files either, and import no model library: one process for all."""
    model = quantize(out=tmp_path / "run")
    torch.save(model(images), tmp_path / "logits.pt")
    torch.save(images, tmp_path / "images.pt")
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['onnx', 'onnx_ir', 'onnxscript']))\n"
        "import torch, vitq.api, vitq.models, vitq.data\n"
        "assert not {'timm', 'torchvision', 'transformers'} & set(sys.modules), 'a verb imports model libraries'\n"
        "m = vitq.load(sys.argv[1] + '/run'); x = torch.load(sys.argv[1] + '/images.pt')\n"
        "assert torch.equal(m(x), torch.load(sys.argv[1] + '/logits.pt')); assert 'timm' not in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment)


def test_same_seed_same_artifact_byte_for_byte(
    quantize: Callable[..., vitq.QuantizedModel], whole: dict[str, bytes], tmp_path: Path
) -> None:
    quantize("mgrq", out=tmp_path / "again", seed=3)
    for file in FILES:
        assert (tmp_path / "again" / file).read_bytes() == whole[file], file


def test_weights_take_their_real_width_on_disk(quantize: Callable[..., vitq.QuantizedModel], tmp_path: Path) -> None:
    from safetensors import safe_open

    quantize(bits="w4a8", out=tmp_path / "run")
    with safe_open(tmp_path / "run" / "model.safetensors", "pt") as file:
        codes = file.get_tensor("blocks.0.mlp.fc1.weight.codes")
        assert "blocks.0.mlp.fc1.weight" not in file.keys()  # noqa: SIM118
    assert codes.dtype == torch.uint8
    assert codes.numel() == packed_size(48 * 192, 4) == 48 * 192 // 2


def test_the_users_model_is_not_changed(vit: nn.Module, quantize: Callable[..., vitq.QuantizedModel]) -> None:
    before = copy.deepcopy(vit.state_dict())
    quantize("mgrq")
    assert all(torch.equal(before[key], value) for key, value in vit.state_dict().items())
    assert vit.training


def test_32_bits_leave_floating_point(
    quantize: Callable[..., vitq.QuantizedModel], images: torch.Tensor, vit: nn.Module
) -> None:
    model = quantize(bits="w32a32")
    with torch.no_grad():
        expected = copy.deepcopy(vit).eval()(images)
    assert torch.allclose(model(images), expected, atol=1e-5)
    assert model.metrics.agreement == 100.0


def test_more_bits_agree_more(quantize: Callable[..., vitq.QuantizedModel]) -> None:
    errors = [quantize(bits=bits).metrics.mean_segment_error for bits in ("w2a2", "w4a4", "w8a8")]
    assert errors[0] > errors[1] > errors[2]


def test_labels_give_accuracy(
    quantize: Callable[..., vitq.QuantizedModel], images: torch.Tensor, tmp_path: Path
) -> None:
    labels = quantize(bits="w32a32")(images).argmax(-1)
    model = quantize(bits="w8a8", validation=(images, labels), out=tmp_path / "run")
    assert model.metrics.fp_top1 == 100.0
    assert 50.0 < model.metrics.top1 <= 100.0
    assert vitq.load(tmp_path / "run").evaluate((images, labels)).top1 == model.metrics.top1
    with pytest.raises(DataError, match="label"):
        model.evaluate((images, labels + 10))


def test_a_finished_folder_is_kept(quantize: Callable[..., vitq.QuantizedModel], tmp_path: Path) -> None:
    quantize(out=tmp_path / "run")
    with pytest.raises(ArtifactError, match="overwrite"):
        quantize(out=tmp_path / "run")
    assert quantize(out=tmp_path / "run", resume=True).config.bits == "w4a4"
    quantize(out=tmp_path / "run", bits="w8a8", overwrite=True)
    assert vitq.load(tmp_path / "run").config.bits == "w8a8"


@pytest.mark.parametrize("saved_before_the_kill", [1, 4])  # while it calibrates, and while it trains
def test_a_killed_run_resumes_to_the_same_artifact(
    quantize: Callable[..., vitq.QuantizedModel],
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    saved_before_the_kill: int,
) -> None:
    save, count = Checkpoints.save, []

    def save_then_die(self: Checkpoints, *args: Any) -> None:
        save(self, *args)
        count.append(args[0])
        if len(count) == saved_before_the_kill:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_then_die)
        with pytest.raises(KeyboardInterrupt):
            quantize("mgrq", out=tmp_path / "killed", seed=3)
    with pytest.raises(ResumeError, match="seed"):
        quantize("mgrq", out=tmp_path / "killed", resume=True, seed=9)
    quantize("mgrq", out=tmp_path / "killed", resume=True, seed=3)
    for file in FILES:
        assert (tmp_path / "killed" / file).read_bytes() == whole[file], file


def test_a_run_killed_while_it_saves_is_finished_by_resume(
    quantize: Callable[..., vitq.QuantizedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = quantize("repq", out=tmp_path / "run")
    report = (tmp_path / "run" / "report.html").read_bytes()

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("vitq.verbs.finish.write_report", die)
        with pytest.raises(KeyboardInterrupt):
            quantize("repq", out=tmp_path / "run", overwrite=True)
    (tmp_path / "run" / "metrics.json").unlink()
    assert (tmp_path / "run" / "config.json").exists()
    resumed = quantize("repq", out=tmp_path / "run", resume=True)
    assert resumed.metrics.mean_segment_error == whole.metrics.mean_segment_error
    assert (tmp_path / "run" / "report.html").read_bytes() == report
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("recipe", ["repq", "pfcr"])
def test_all_that_is_quantized_is_shown_before_anything_runs(
    quantize: Callable[..., vitq.QuantizedModel], capfd: pytest.CaptureFixture[str], recipe: str
) -> None:
    quantize(recipe, progress=True, overrides={"reconstruct.steps": 0} if recipe == "pfcr" else {})
    shown = capfd.readouterr().err
    assert shown.count("What is quantized (w4a4)") == 1
    table = shown[shown.index("What is quantized") : shown.rindex("floating point")]
    assert "weight" in table and "post_norm" in table and "calibrate" not in table


def test_overwrite_starts_anew_where_a_run_was_stopped(
    quantize: Callable[..., vitq.QuantizedModel], tmp_path: Path
) -> None:
    Checkpoints(tmp_path / "run" / "checkpoints", {"seed": 9})
    with pytest.raises(ResumeError, match="--overwrite"):
        quantize(out=tmp_path / "run")
    assert quantize(out=tmp_path / "run", overwrite=True).metrics.images > 0


@pytest.mark.parametrize("file", ["config.json", "graph.json", "model.safetensors"])
def test_a_damaged_artifact_is_refused(small_artifact: Path, tmp_path: Path, file: str) -> None:
    shutil.copytree(small_artifact, tmp_path / "run")
    path = tmp_path / "run" / file
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match=file.replace(".", r"\.")):
        vitq.load(tmp_path / "run")
    path.unlink()
    with pytest.raises(ArtifactError):
        vitq.load(tmp_path / "run")


def test_another_schema_version_is_refused(small_artifact: Path, tmp_path: Path) -> None:
    shutil.copytree(small_artifact, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.raises(ArtifactError, match="schema version 99"):
        vitq.load(tmp_path / "run")


def test_bad_input_is_named(quantize: Callable[..., vitq.QuantizedModel], images: torch.Tensor) -> None:
    with pytest.raises(RecipeError, match="w4a4"):
        quantize(bits="4bit")
    with pytest.raises(RecipeError, match="mgrq"):
        quantize("mgrk")
    with pytest.raises(RecipeError, match=r"reconstruct\.steps"):
        quantize("mgrq", overrides={"reconstruct.stepz": 3})
    with pytest.raises(ArgumentError, match="cuda"):
        quantize(device="cuda:99")
    with pytest.raises(ModelError, match="deit_tiny_patch16_224"):
        vitq.quantize("deit_tiny_patch16_22", images, progress=False)


@pytest.mark.parametrize("name", vitq.__all__)
def test_a_public_name_stays_what_it_is_when_modules_are_imported(name: str) -> None:
    first, second = getattr(vitq, name), getattr(vitq, name)
    assert callable(first) and first is second
