from collections.abc import Mapping
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from families import SMALL, small
from PIL import Image

from vitq.errors import ModelError
from vitq.graph.outputs import as_outputs, named_outputs
from vitq.models import Preprocessing, load_model, load_whole, settle
from vitq.models.heads import head_for, squashed
from vitq.models.huggingface import LogitsOf, run_on_images
from vitq.models.processors import processor_preprocessing
from vitq.models.torchvision_shim import ensure_torchvision
from vitq.run.whole import watch


@pytest.fixture(scope="module")
def transformers() -> Any:
    ensure_torchvision()
    return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny-vit")
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        image_size=32, patch_size=8, num_labels=5,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(path)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(path)
    return path


def test_local_folder_gives_logits(transformers: Any, folder: Path) -> None:
    loaded = load_model(str(folder))
    theirs = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    x_BCHW = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        assert torch.equal(loaded.module(x_BCHW), theirs(pixel_values=x_BCHW).logits)
    assert loaded.num_classes == 5
    assert loaded.source["name"] == folder.name
    assert (loaded.preprocessing.input_size, loaded.preprocessing.crop_mode) == ((3, 32, 32), "squash")


def test_preprocessing_matches_their_processor(transformers: Any, folder: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    theirs = transformers.AutoImageProcessor.from_pretrained(folder)(picture, return_tensors="pt")["pixel_values"][0]

    ours = load_model(str(folder)).preprocessing.transform()(picture)

    assert (ours - theirs).abs().mean() < 0.02  # two resizing routines, one picture


def test_untrained_head_is_refused(transformers: Any, folder: Path, tmp_path: Path) -> None:
    base = transformers.ViTModel(transformers.AutoConfig.from_pretrained(folder))
    base.save_pretrained(tmp_path)

    with pytest.raises(ModelError, match=r"no trained weights for classifier.*--task features"):
        load_model(str(tmp_path), task="classes")
    assert type(load_model(str(tmp_path)).module.model) is transformers.ViTModel  # as it was saved
    assert type(load_model(str(folder), weights="random", task="features").module.model) is transformers.ViTModel


@pytest.mark.parametrize(
    ("name", "processor", "task", "size"),
    [
        ("SegFormer", ("SegformerImageProcessor", {"size": {"height": 32, "width": 32}}), "dense", (3, 32, 32)),
        ("DPT", ("DPTImageProcessor", {"keep_aspect_ratio": True, "size": {"height": 32, "width": 32}}), "dense", None),
        ("YOLOS", ("YolosImageProcessor", {"size": {"shortest_edge": 40, "longest_edge": 60}}), "boxes", None),
        ("AutoBackbone DINOv2", None, "features", None),
        ("DINOv2 tower", None, "features", None),
        ("CLIP projection", None, "features", None),
        ("SAM encoder", None, "features", None),
    ],
)
def test_a_model_is_loaded_with_the_head_that_it_was_saved_with(
    transformers: Any, name: str, processor: Any, task: str, size: Any, tmp_path: Path
) -> None:
    theirs: Any = small(name)
    theirs.save_pretrained(tmp_path)
    if processor is not None:
        getattr(transformers, processor[0])(**processor[1]).save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert type(loaded.module.model) is type(theirs)
    assert loaded.preprocessing.input_size == (3, 32, 32) and loaded.preprocessing.assumed == (size is None)
    x_BCHW = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    settled = settle(loaded, x_BCHW, lambda *_: None)
    assert settled.task == task
    expected = named_outputs(theirs(pixel_values=x_BCHW))
    with torch.no_grad():
        got = as_outputs(settled.module(x_BCHW))
    assert list(got) == (["logits", "pred_boxes"] if task == "boxes" else list(expected))
    assert all(torch.equal(y, expected[name]) for name, y in got.items())


@pytest.mark.parametrize(
    ("saved", "auto"),
    [
        ("CLIPVisionModelWithProjection", "AutoModel"),
        ("DeiTForImageClassificationWithTeacher", "AutoModelForImageClassification"),
        ("PerceiverForImageClassificationConvProcessing", "AutoModelForImageClassification"),
        ("PerceiverForImageClassificationLearned", "AutoModelForImageClassification"),
        ("Dinov2WithRegistersModel", "AutoModel"),
        ("DPTForDepthEstimation", "AutoModelForDepthEstimation"),
        ("Dinov2WithRegistersBackbone", "AutoBackbone"),
        (None, "AutoModelForImageClassification"),
    ],
)
def test_what_follows_the_kind_of_a_class_does_not_change_its_head(saved: str | None, auto: str) -> None:
    config = SimpleNamespace(architectures=[saved] if saved else None)
    assert head_for(config, None, "a").auto == auto


@pytest.mark.parametrize("saved", ["ViTForMaskedImageModeling", "CLIPSegForImageSegmentation", "ViTMAEForPreTraining"])
def test_a_class_of_another_kind_is_refused_by_name(saved: str) -> None:
    with pytest.raises(ModelError, match=saved):
        head_for(SimpleNamespace(architectures=[saved]), None, "a")


def test_of_a_model_of_pictures_and_words_the_part_that_sees_is_taken(transformers: Any, tmp_path: Path) -> None:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    theirs = transformers.CLIPModel(transformers.CLIPConfig(vision_config=SMALL, text_config=text)).eval()
    theirs.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    x_BCHW = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    settled = settle(loaded, x_BCHW, lambda *_: None)
    with torch.no_grad():
        expected = theirs.vision_model(pixel_values=x_BCHW)
        assert torch.equal(settled.module(x_BCHW)["pooler_output"], expected.pooler_output)
    assert settled.task == "features" and settled.preprocessing.input_size == (3, 32, 32)

    whole, preprocessing = load_whole(str(tmp_path))
    received = watch(whole, "vision_model", lambda model: run_on_images(model, x_BCHW))
    assert type(whole) is transformers.CLIPModel and torch.equal(received.inputs[0], x_BCHW)
    assert preprocessing.input_size == (3, 32, 32)


def test_random_weights_and_another_head(folder: Path) -> None:
    assert load_model(str(folder), weights="random", num_classes=7).num_classes == 7
    with pytest.raises(ModelError, match="5 classes, not 7"):
        load_model(str(folder), num_classes=7)


def test_a_module_of_theirs_is_wrapped(transformers: Any, folder: Path) -> None:
    theirs = transformers.AutoModelForImageClassification.from_pretrained(folder)

    loaded = load_model(theirs)

    assert isinstance(loaded.module, LogitsOf)
    assert loaded.preprocessing.assumed and loaded.preprocessing.input_size == (3, 32, 32)
    assert loaded.module(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


def test_bgr_models_see_bgr() -> None:
    class FirstChannel(torch.nn.Module):
        def forward(self, pixel_values: torch.Tensor, return_dict: bool) -> Any:
            return type("Output", (), {"logits": pixel_values[:, 0].mean((1, 2), keepdim=True)[..., 0]})()

    x_BCHW = torch.arange(3.0).view(1, 3, 1, 1)

    assert LogitsOf(FirstChannel())(x_BCHW).item() == 0
    assert LogitsOf(FirstChannel(), bgr=True)(x_BCHW).item() == 2


def test_unknown_id_without_network(monkeypatch: pytest.MonkeyPatch, transformers: Any) -> None:
    monkeypatch.setattr("vitq.models.hub._hub_resolves", lambda: False)

    with pytest.raises(ModelError, match=r"nobody/nothing.*--weights FILE"):
        load_model("nobody/nothing")


PLAIN = {"do_resize": True, "do_rescale": True, "do_normalize": True, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
CLIP = {
    **PLAIN,
    "size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224},
    "resample": 3, "image_mean": [0.4, 0.4, 0.4], "image_std": [0.2, 0.2, 0.2],
}  # fmt: skip


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (
            CLIP,
            {
                "input_size": (3, 224, 224),
                "crop_pct": 0.875,
                "crop_mode": "shortest_edge",
                "interpolation": "bicubic",
            },
        ),
        ({"size": 8, "resample": 0}, {"interpolation": "nearest"}),
        ({"size": 384}, {"input_size": (3, 384, 384), "crop_pct": 1.0, "mean": (0.0, 0.0, 0.0)}),
        (
            {"size": {"shortest_edge": 224}, "crop_pct": 0.9, "image_processor_type": "ConvNextImageProcessorFast"},
            {"input_size": (3, 224, 224), "crop_pct": 224 / 248, "crop_mode": "shortest_edge"},
        ),
        ({"size": {"height": 96, "width": 64}}, {"input_size": (3, 96, 64), "crop_mode": "squash"}),
        (
            {"size": 8, "do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3},
            {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
        ),
    ],
)
def test_processors_are_translated(processor: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    preprocessing = processor_preprocessing({**PLAIN, **processor})

    assert {name: getattr(preprocessing, name) for name in expected} == expected


@pytest.mark.parametrize("short_side", [225, 232, 236, 248, 249, 256, 288, 438])
def test_crop_share_gives_back_the_short_side(short_side: int) -> None:
    processor = {**CLIP, "size": {"shortest_edge": short_side}}

    assert int(224 / processor_preprocessing(processor).crop_pct) == short_side


def test_unknown_interpolation_is_named() -> None:
    with pytest.raises(ModelError, match="resample of 6"):
        processor_preprocessing({**PLAIN, "size": 8, "resample": 6})


def test_unknown_size_is_named() -> None:
    with pytest.raises(ModelError, match="longest_edge"):
        processor_preprocessing({**PLAIN, "size": {"longest_edge": 512}})


def test_a_folder_whose_processor_vitq_cannot_follow_needs_preprocessing(
    transformers: Any, folder: Path, tmp_path: Path
) -> None:
    copytree(folder, tmp_path, dirs_exist_ok=True)
    transformers.ViTImageProcessor(do_resize=False).save_pretrained(tmp_path)
    own = Preprocessing((3, 32, 32), 1.0)

    with pytest.raises(ModelError, match=r"do_resize.*preprocessing=Preprocessing"):
        load_model(tmp_path)
    with pytest.raises(ModelError, match="do_resize"):
        load_model(tmp_path, preprocessing={"crop_pct": 0.9})
    assert load_model(tmp_path, preprocessing=own).preprocessing == own
    assert load_model(tmp_path, preprocessing=own.to_dict()).preprocessing == own


@pytest.mark.parametrize("text", ["3", "{", '{"image_processor_type": "Zzz"}', '{"image_processor_type": 3}'])
def test_a_damaged_processor_file_is_not_taken_for_an_absent_one(folder: Path, tmp_path: Path, text: str) -> None:
    copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "preprocessor_config.json").write_text(text)

    with pytest.raises(ModelError, match=r"image processor of .* cannot be read"):
        load_model(tmp_path)


def test_a_folder_without_a_processor_assumes_and_says_so(folder: Path, tmp_path: Path) -> None:
    copytree(folder, tmp_path, dirs_exist_ok=True)
    for file in tmp_path.glob("*processor_config.json"):
        file.unlink()

    assert load_model(tmp_path).preprocessing == Preprocessing((3, 32, 32), assumed=True)


@pytest.mark.parametrize(
    ("size", "sides"),
    [
        ({"longest_edge": 48}, (48, 48)),
        ({"shortest_edge": 40, "longest_edge": 60}, (40, 40)),
        ({"height": 32, "width": 64}, (32, 64)),
    ],
)
def test_a_processor_that_keeps_forms_is_squashed_to_the_size_that_it_names(
    size: dict[str, int], sides: tuple[int, int]
) -> None:
    assert tuple(squashed({"size": size}, None)["size"].values()) == sides
