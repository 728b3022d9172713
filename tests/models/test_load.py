import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vitq.data import load_labelled, open_images
from vitq.errors import ModelError
from vitq.models import Preprocessing, list_models, load_model
from vitq.models.torchvision_shim import ensure_torchvision
from vitq.models.weights import read_state_dict

SMALL = "test_vit"


@pytest.fixture(scope="module")
def random_vit() -> nn.Module:
    return load_model(SMALL, weights="random", num_classes=10).module


@pytest.fixture(scope="module")
def weights_file(random_vit: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tuned.safetensors"
    save_file(random_vit.state_dict(), path)
    return path


def test_weights_file_is_loaded_strictly_and_named(random_vit: nn.Module, weights_file: Path) -> None:
    loaded = load_model(SMALL, weights=weights_file, num_classes=10)

    assert not loaded.module.training
    assert loaded.num_classes == 10
    assert loaded.preprocessing.mean == (0.5, 0.5, 0.5)
    assert loaded.source["file"] == "tuned.safetensors"
    assert len(loaded.source["file_sha256"]) == len(loaded.source["sha256"]) == 64
    assert str(weights_file.parent) not in str(loaded.source)
    for name, tensor in random_vit.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[name], tensor)


def test_half_precision_weights_become_float32(random_vit: nn.Module, tmp_path: Path) -> None:
    save_file(
        {name: tensor.half() for name, tensor in random_vit.state_dict().items()},
        tmp_path / "half.safetensors",
    )

    loaded = load_model(SMALL, weights=tmp_path / "half.safetensors", num_classes=10)

    assert {parameter.dtype for parameter in loaded.module.parameters()} == {torch.float32}


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "epoch": 3}, lambda s: {"state_dict": s}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_pth_files_are_read_without_running_code(random_vit: nn.Module, tmp_path: Path, wrap, prefix: str) -> None:  # type: ignore[no-untyped-def]
    state = {prefix + name: tensor for name, tensor in random_vit.state_dict().items()}
    torch.save(wrap(state), tmp_path / "tuned.pth")

    loaded = load_model(SMALL, weights=tmp_path / "tuned.pth", num_classes=10)

    assert torch.equal(loaded.module.state_dict()["head.weight"], random_vit.state_dict()["head.weight"])


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    torch.save({"model": {}, "args": Path("x")}, tmp_path / "evil.pth")

    with pytest.raises(ModelError, match="would run code"):
        load_model(SMALL, weights=tmp_path / "evil.pth")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not a checkpoint" * 10)

    with pytest.raises(ModelError, match=name):
        load_model(SMALL, weights=tmp_path / name)


def test_absent_and_unknown_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load_model(SMALL, weights=tmp_path / "gone.safetensors")
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(ModelError, match="not a regular file"):
        load_model(SMALL, weights=tmp_path / "pipe.pth")
    (tmp_path / "weights.onnx").touch()
    with pytest.raises(ModelError, match=r"expected \.safetensors"):
        load_model(SMALL, weights=tmp_path / "weights.onnx")


def test_other_head_is_recognised(weights_file: Path) -> None:
    with pytest.raises(ModelError, match=r"10 classes in the file, 1000 in the model; pass num_classes=10 "):
        load_model(SMALL, weights=weights_file)


def test_missing_and_unexpected_tensors_are_listed(random_vit: nn.Module, tmp_path: Path) -> None:
    state = dict(random_vit.state_dict())
    state["neck.weight"] = state.pop("norm.weight")
    save_file(state, tmp_path / "other.safetensors")

    with pytest.raises(ModelError, match=r"1 missing: norm\.weight; 1 unexpected: neck\.weight"):
        load_model(SMALL, weights=tmp_path / "other.safetensors", num_classes=10)


def test_weights_with_nan_are_refused(random_vit: nn.Module, tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in random_vit.state_dict().items()}
    state["norm.bias"][3] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")

    with pytest.raises(ModelError, match=r"norm\.bias.*NaN"):
        load_model(SMALL, weights=tmp_path / "nan.safetensors", num_classes=10)


def test_random_weights_are_seeded_and_leave_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()

    first, second = (load_model(SMALL, weights="random").source["sha256"] for _ in range(2))

    assert first == second
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("deit_tinny_patch16_224", "did you mean 'deit_tiny_patch16_224'"),
        ("zzzzqqq", "vitq models"),
        ("timm/deit_tinny_patch16_224.fb_in1k", "did you mean 'deit_tiny_patch16_224'"),
    ],
)
def test_unknown_names_get_a_suggestion(name: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        load_model(name)


@pytest.mark.parametrize("name", ["./runs/absent", "/runs/absent", "~/absent", "runs/deit/absent"])
def test_absent_folders_are_named_without_asking_the_hub(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("vitq.models.load.load_huggingface", lambda *_: pytest.fail("asked the hub"))

    with pytest.raises(ModelError, match=f"no folder '{name}'"):
        load_model(name)


def test_timm_prefix_and_tag_are_the_same_model() -> None:
    tagged = load_model("timm/test_vit.r160_in1k", weights="random")

    assert tagged.source["sha256"] == load_model(SMALL, weights="random").source["sha256"]
    assert tagged.preprocessing.input_size == (3, 160, 160)


def test_untrained_heads_are_refused() -> None:
    with pytest.raises(ModelError, match="head of 10 would be untrained"):
        load_model("deit_tiny_patch16_224", num_classes=10)


def test_models_without_pretrained_weights_are_named() -> None:
    with pytest.raises(ModelError, match="no pretrained weights"):
        load_model("vit_base_patch32_plus_256")


def test_without_network_the_error_names_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("vitq.models.hub._hub_resolves", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    with pytest.raises(ModelError, match="--weights FILE"):
        load_model("deit_tiny_patch16_224")
    with pytest.raises(ModelError, match="'runs/absent' is no folder here and could not be fetched"):
        load_model("runs/absent")


def test_a_given_module_is_copied_and_never_changed() -> None:
    mine = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Dropout()).double().train()
    before = {name: tensor.clone() for name, tensor in mine.state_dict().items()}

    loaded = load_model(mine, num_classes=4, preprocessing=Preprocessing((3, 2, 2)))
    loaded.module[1].weight.detach().zero_()  # type: ignore[index]

    assert mine.training and not loaded.module.training
    assert mine[1].weight.dtype == torch.float64 and loaded.module[1].weight.dtype == torch.float32  # type: ignore[index]
    assert all(torch.equal(tensor, before[name]) for name, tensor in mine.state_dict().items())
    assert (loaded.name, loaded.num_classes, loaded.preprocessing.input_size) == ("Sequential", 4, (3, 2, 2))


def test_a_module_without_configuration_says_that_preprocessing_is_assumed() -> None:
    assert load_model(nn.Linear(3, 3)).preprocessing.assumed
    assert not load_model(load_model(SMALL, weights="random").module).preprocessing.assumed


def test_a_folder_saved_by_timm_is_read(tmp_path: Path) -> None:
    model = load_model(SMALL, weights="random", num_classes=3).module
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = '{"architecture": "test_vit", "num_classes": 3, "pretrained_cfg": {"mean": [0.1, 0.2, 0.3]}}'
    (tmp_path / "config.json").write_text(config)

    loaded = load_model(str(tmp_path))

    assert loaded.num_classes == 3
    assert loaded.preprocessing.mean == (0.1, 0.2, 0.3)
    assert torch.equal(loaded.module.state_dict()["head.weight"], model.state_dict()["head.weight"])


def test_a_folder_without_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        load_model(str(tmp_path))


def test_models_are_listed_by_part_or_pattern() -> None:
    assert "deit_tiny_patch16_224" in list_models("deit")
    assert list_models("deit_tiny_patch16_22?") == ["deit_tiny_patch16_224"]
    assert list_models("no such model") == []


@pytest.mark.parametrize(("name", "at_least"), [("deit_tiny_patch16_224", 22), ("vit_tiny_patch16_224", 24)])
def test_real_weights_recognise_real_images(shared_data: Path, name: str, at_least: int) -> None:
    loaded = load_model(name, weights=shared_data / "weights" / f"{name}.safetensors")
    source = open_images(shared_data / "imagenet-validation")

    with torch.inference_mode():
        correct = sum(
            int((loaded.module(x_BCHW).argmax(1) == labels_B).sum())
            for x_BCHW, labels_B in load_labelled(source, loaded.preprocessing, limit=32, num_classes=1000)
        )

    assert correct >= at_least


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "an empty file"),
        (POINTER, "git-LFS pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html><html><head>", "a web page"),
        (b"<html>404</html>", "a web page"),
        (b"epoch,loss\n1,2.5\n", "are text"),
        (b'{"weights": [1, 2]}', "are text|not a readable"),
        (b"\x80\x04K\x05.", "damaged or not a PyTorch file|hold no state dict|not a readable"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "damaged|not a readable"),
        (b"PK\x03\x04" + bytes(64), "damaged|not a readable"),
    ],
)
def test_files_that_are_no_weights_say_what_they_are(tmp_path: Path, suffix: str, content: bytes, said: str) -> None:
    path = tmp_path / f"tuned{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=said) as refused:
        read_state_dict(path)
    assert "tuned" in str(refused.value) and "would run code" not in str(refused.value)


@pytest.mark.parametrize(
    ("checkpoint", "said"),
    [
        ({1: torch.zeros(2)}, "keys that are no names: 1"),
        ({("a",): torch.zeros(2), "b": torch.zeros(1)}, "keys that are no names"),
        ({"a": 3}, "entries that are no tensors: a"),
        ({"a": torch.zeros(2).to_sparse()}, r"a \(sparse\)"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, r"a \(complex\)"),
        ([torch.zeros(2)], "hold no state dict but a list"),
        ({}, "hold no state dict"),
        (torch.zeros(3), "hold no state dict but a Tensor"),
    ],
)
def test_checkpoints_that_are_no_state_dict_are_named(tmp_path: Path, checkpoint: object, said: str) -> None:
    torch.save(checkpoint, tmp_path / "tuned.pth")
    with pytest.raises(ModelError, match=said):
        read_state_dict(tmp_path / "tuned.pth")


def test_torchscript_archives_are_named(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "tuned.pt")
    with pytest.raises(ModelError, match="TorchScript archive"):
        read_state_dict(tmp_path / "tuned.pt")


ODD_CONFIGURATIONS = [
    "3", "null", "[]", '"vit"', "", "{", "[" * 5000, "{}", '{"architecture": 3}', '{"architecture": "zzz"}',
    '{"architecture": "test_vit", "num_classes": "x"}', '{"architecture": "test_vit", "model_args": 3}',
    '{"architecture": "test_vit", "model_args": {"checkpoint_path": "/etc/passwd"}}',
    '{"architecture": "test_vit", "model_args": {"pretrained": true}}',
    '{"architecture": "test_vit", "model_args": {"embed_dim": 1000000000000}}',
    '{"architecture": "test_vit", "model_args": {"img_size": {"a": 1}}}',
    '{"architecture": "test_vit", "pretrained_cfg": 3}', '{"architecture": "test_vit", "global_pool": "zzz"}',
    '{"model_type": 3}', '{"model_type": "zzz"}', '{"model_type": "vit", "hidden_size": "x"}',
    '{"model_type": "vit", "num_labels": -1}', '{"model_type": "vit", "id2label": 3}', '{"model_type": "vit"}',
    '{"model_type": "zzz", "auto_map": {"AutoConfig": "evil.Evil"}}',
]  # fmt: skip


@pytest.mark.parametrize("config", ODD_CONFIGURATIONS)
def test_odd_model_folders_end_in_a_named_error(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "evil.py").write_text("raise SystemExit('code of the folder ran')")
    with pytest.raises(ModelError, match=r"config\.json|cannot be loaded|timm has no model|weights") as refused:
        load_model(tmp_path)
    assert "fetched from the hub" not in str(refused.value)


def test_a_configuration_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{\x00}\x00")
    with pytest.raises(ModelError, match=r"no readable config\.json"):
        load_model(tmp_path)


def test_model_arguments_of_a_transformer_are_passed_on(tmp_path: Path) -> None:
    ensure_torchvision()
    import timm

    module = timm.create_model("test_vit", num_classes=3, img_size=32, depth=1)
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    config = '{"architecture": "test_vit", "num_classes": 3, "model_args": {"img_size": 32, "depth": 1}}'
    (tmp_path / "config.json").write_text(config)
    assert len(load_model(tmp_path).module.blocks) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("graph", "said"), [(True, "quantized already.*'deit'"), (False, r"without its graph\.json.*'deit'")]
)
def test_artifacts_are_no_models(tmp_path: Path, graph: bool, said: str) -> None:
    config = '{"schema_version": 1, "source": {"name": "deit"}, "recipe": {}, "sites": {}}'
    (tmp_path / "config.json").write_text(config)
    if graph:
        (tmp_path / "graph.json").write_text("{}")
    with pytest.raises(ModelError, match=said):
        load_model(tmp_path)


def test_the_callers_default_type_changes_nothing() -> None:
    expected = load_model(SMALL, weights="random").source["sha256"]
    torch.set_default_dtype(torch.float64)
    try:
        assert load_model(SMALL, weights="random").source["sha256"] == expected
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_mapping_changes_the_values_that_it_names() -> None:
    loaded = load_model(SMALL, weights="random", preprocessing={"crop_pct": 0.5})
    assert loaded.preprocessing.crop_pct == 0.5
    assert loaded.preprocessing.input_size == (3, 160, 160)
    with pytest.raises(ModelError, match="preprocessing is a int"):
        load_model(SMALL, weights="random", preprocessing=3)  # type: ignore[arg-type]
