"""Image processors of transformers beside vitq's preprocessing of their values, on pictures of every form."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitq.errors import ModelError
from vitq.models.preprocessing import Preprocessing
from vitq.models.processors import (
    TOLERANCE,
    compare,
    load_processor,
    processor_preprocessing,
    processor_values,
    swaps_channels,
)
from vitq.models.torchvision_shim import ensure_torchvision

SQUARE = {"size": {"height": 48, "width": 48}}
CENTER = {
    "size": {"shortest_edge": 57}, "do_center_crop": True, "crop_size": {"height": 48, "width": 48},
}  # fmt: skip
RECTANGLE = {**CENTER, "crop_size": {"height": 40, "width": 56}}
EQUAL: list[tuple[str, dict[str, Any]]] = [
    ("BeitImageProcessor", SQUARE),
    ("BitImageProcessor", CENTER),
    ("CLIPImageProcessor", CENTER),
    ("CLIPImageProcessor", RECTANGLE),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 48}, "crop_pct": 0.9}),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
    ("DeiTImageProcessor", {"size": {"height": 57, "width": 57}, "crop_size": {"height": 47, "width": 47}}),
    ("EfficientNetImageProcessor", SQUARE),
    (
        "EfficientNetImageProcessor",
        {**SQUARE, "include_top": False, "rescale_offset": True, "rescale_factor": 1 / 127.5},
    ),
    ("LevitImageProcessor", {"size": {"shortest_edge": 49}, "crop_size": {"height": 49, "width": 49}}),
    ("LevitImageProcessor", {"size": {"shortest_edge": 49}, "crop_size": {"height": 40, "width": 56}}),
    ("MobileNetV2ImageProcessor", CENTER),
    ("MobileViTImageProcessor", CENTER),
    ("MobileViTImageProcessor", {**CENTER, "do_normalize": True}),
    ("PoolFormerImageProcessor", {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}),
    ("PvtImageProcessor", SQUARE),
    ("SegformerImageProcessor", SQUARE),
    ("SiglipImageProcessor", {"size": {"height": 40, "width": 56}}),
    ("ViTImageProcessor", SQUARE),
    ("ViTImageProcessor", {"size": 48}),
    ("ViTImageProcessor", {**SQUARE, "do_normalize": False}),
    ("ViTImageProcessor", {**SQUARE, "do_rescale": False, "image_mean": [127.5] * 3, "image_std": [60.0] * 3}),
    ("ViTImageProcessor", {**SQUARE, "rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}),
    ("ViTImageProcessor", {**SQUARE, "resample": 1}),
    ("ViTImageProcessor", {**SQUARE, "resample": 3}),
    ("ViTImageProcessorPil", {**SQUARE, "resample": 0}),
    ("ViTImageProcessorPil", {**SQUARE, "resample": 4}),
    ("ViTImageProcessorPil", {**SQUARE, "resample": 5}),
]
SHAPES = [(300, 400), (401, 300), (64, 64), (20, 33), (61, 200), (9, 8)]


@pytest.fixture(scope="module")
def transformers() -> Any:
    ensure_torchvision()
    return pytest.importorskip("transformers")


def picture(height: int, width: int) -> Image.Image:
    random = np.random.default_rng(5)
    y_H11, x_1W1 = np.linspace(0, 5, height)[:, None, None], np.linspace(0, 7, width)[None, :, None]
    pixels_HWC = np.sin(x_1W1 + np.arange(3)) * np.cos(y_H11) * 80 + 120 + random.normal(0, 15, (height, width, 3))
    return Image.fromarray(np.clip(pixels_HWC, 0, 255).astype(np.uint8))


def made(transformers: Any, name: str, options: Mapping[str, Any]) -> Any:
    if not hasattr(transformers, name):
        pytest.skip(f"this transformers has no {name}")
    return getattr(transformers, name)(**options)


@pytest.mark.parametrize("backend", ["", "Pil"])
@pytest.mark.parametrize(("name", "options"), EQUAL)
def test_preprocessing_equals_the_processor(
    transformers: Any, name: str, options: Mapping[str, Any], backend: str
) -> None:
    processor = made(
        transformers, name.removesuffix("Pil") + (backend or name[len(name.removesuffix("Pil")) :]), options
    )
    values = processor_values(processor)
    preprocessing, bgr = processor_preprocessing(values), swaps_channels(values)
    compare(processor, preprocessing, bgr)
    ours = preprocessing.transform()

    for height, width in SHAPES:
        theirs_CHW = torch.as_tensor(processor(picture(height, width), return_tensors="pt")["pixel_values"][0])
        x_CHW = ours(picture(height, width))
        assert x_CHW.shape == theirs_CHW.shape
        assert float(((theirs_CHW.flip(0) if bgr else theirs_CHW) - x_CHW).abs().mean()) < TOLERANCE


def test_gray_pictures_are_the_processors_rgb(transformers: Any) -> None:
    processor = made(transformers, "LevitImageProcessor", {})
    gray = picture(300, 400).convert("L")
    theirs_CHW = processor(gray.convert("RGB"), return_tensors="pt")["pixel_values"][0]
    x_CHW = processor_preprocessing(processor_values(processor)).transform()(gray.convert("RGB"))
    assert float((theirs_CHW - x_CHW).abs().mean()) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("ViTImageProcessor", {"do_resize": False}, "do_resize"),
        ("CLIPImageProcessor", {"do_center_crop": False}, "do_center_crop"),
        ("CLIPImageProcessor", {**CENTER, "crop_size": {"height": 40, "width": 70}}, "adds a border"),
        ("MobileViTImageProcessor", {}, "adds a border"),
        (
            "DeiTImageProcessor",
            {"size": {"height": 64, "width": 48}, "crop_size": {"height": 32, "width": 32}},
            "shares",
        ),
        ("ViTImageProcessor", {"size": {"longest_edge": 48}}, "longest_edge"),
        ("ViTImageProcessor", {**SQUARE, "resample": 0}, "nearest"),
        ("ViTImageProcessor", {**SQUARE, "image_std": [0.0] * 3}, "std"),
        ("ViTImageProcessor", {**SQUARE, "rescale_offset": True}, "other pixels"),
        ("PerceiverImageProcessor", {}, "PerceiverImageProcessor"),
        ("ImageGPTImageProcessor", {"size": {"height": 32, "width": 32}}, "ImageGPTImageProcessor"),
        ("Siglip2ImageProcessor", {}, "Siglip2ImageProcessor"),
        ("TextNetImageProcessor", {}, "TextNetImageProcessor"),
        ("YolosImageProcessor", {}, "YolosImageProcessor"),
        ("VideoMAEImageProcessor", CENTER, "makes pixels of shape"),
        ("VitPoseImageProcessor", SQUARE, "VitPoseImageProcessor"),
    ],
)
def test_what_vitq_cannot_follow_is_refused_by_name(
    transformers: Any, name: str, options: Mapping[str, Any], said: str
) -> None:
    processor = made(transformers, name, options)
    with pytest.raises(ModelError, match=said) as refused:
        values = processor_values(processor)
        compare(processor, processor_preprocessing(values), swaps_channels(values))
    assert "preprocessing=Preprocessing(" in str(refused.value)


def test_a_class_that_vitq_has_never_seen_is_compared_too(transformers: Any) -> None:
    class Sharper(transformers.ViTImageProcessor):  # type: ignore[misc]
        def rescale_and_normalize(self, images: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            return super().rescale_and_normalize(images, *args, **kwargs) * 1.1  # type: ignore[no-any-return]

    if not hasattr(transformers.ViTImageProcessor, "rescale_and_normalize"):
        pytest.skip("this transformers normalises elsewhere")
    processor = Sharper(**SQUARE)
    with pytest.raises(ModelError, match=r"Sharper gives other pixels .* off"):
        compare(processor, processor_preprocessing(processor_values(processor)), bgr=False)


@pytest.mark.parametrize(
    "options", [{"size": {"height": "x", "width": 2}}, {"image_mean": 5, "image_std": "a"}, {"crop_size": [1, 2, 3]}]
)
def test_odd_values_are_refused(options: Mapping[str, Any]) -> None:
    plain = {"do_resize": True, "do_center_crop": True, "do_normalize": True, "do_rescale": True, **SQUARE}
    with pytest.raises(ModelError, match="not understood"):
        processor_preprocessing({**plain, **options})


def test_a_processor_that_needs_its_own_code_is_refused() -> None:
    class Auto:
        @staticmethod
        def from_pretrained(name: str, trust_remote_code: bool) -> None:
            assert not trust_remote_code
            raise ValueError("set the option trust_remote_code=True to run it")

    with pytest.raises(ModelError, match="trust_remote_code"):
        load_processor(type("T", (), {"AutoImageProcessor": Auto}), "owner/name", has_file=False)


def test_an_odd_pixel_is_cut_at_the_bottom_and_the_right() -> None:
    wide = Image.fromarray(np.tile(np.arange(35, dtype=np.uint8)[None, :, None] * 5, (32, 1, 3)))
    preprocessing = Preprocessing((3, 32, 32), 1.0, "shortest_edge", mean=(0.0,) * 3, std=(1.0,) * 3)
    assert round(float(preprocessing.transform()(wide)[0, 0, 0]) * 255) == 5
