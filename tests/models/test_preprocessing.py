import json

import numpy as np
import pytest
import torch
from PIL import Image

from vitq.errors import ModelError
from vitq.models.preprocessing import Preprocessing, random_crop_box
from vitq.models.torchvision_shim import ensure_torchvision


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8))


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0])
def test_transform_equals_timm(picture: Image.Image, crop_mode: str, interpolation: str, crop_pct: float) -> None:
    ensure_torchvision()
    from timm.data import create_transform

    values = {"crop_pct": crop_pct, "crop_mode": crop_mode, "interpolation": interpolation}
    preprocessing = Preprocessing.from_dict({"input_size": [3, 64, 64], **values})
    theirs = create_transform((3, 64, 64), is_training=False, mean=preprocessing.mean, std=preprocessing.std, **values)

    x_CHW = preprocessing.transform()(picture)

    assert x_CHW.shape == (3, 64, 64) and x_CHW.dtype == torch.float32
    assert torch.equal(x_CHW, theirs(picture))


def test_every_timm_model_configuration_is_understood() -> None:
    ensure_torchvision()
    import timm

    from vitq.models.timm_models import timm_preprocessing

    class Configured(torch.nn.Module):
        pretrained_cfg: dict[str, object]

    for name in timm.list_models("*vit*")[::10] + timm.list_models("swin*")[::5]:
        model = Configured()
        model.pretrained_cfg = timm.get_pretrained_cfg(name).to_dict()
        assert str(timm_preprocessing(model).input_size[1]) in timm_preprocessing(model).describe()


def test_round_trip_through_json() -> None:
    preprocessing = Preprocessing((1, 28, 32), 0.9, "squash", "bilinear", (0.5,), (0.25,), assumed=True)

    again = Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict())))

    assert again == preprocessing
    assert "assumed" in again.describe()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"crop_pct": 0}, "crop_pct"),
        ({"crop_pct": 87.5}, "crop_pct"),
        ({"crop_mode": "middle"}, "crop_mode"),
        ({"input_size": [2, 8, 8]}, "channels"),
        ({"mean": [0.5]}, "means"),
        ({"crop": 1}, "unknown crop; did you mean 'crop_pct'"),
        ({"crop_pct": float("nan")}, "crop_pct"),
        ({"crop_pct": "0.9"}, "crop_pct"),
        ({"crop_pct": 1e-6}, "enlarges"),
        ({"crop_mode": None}, "crop_mode"),
        ({"interpolation": "cubic"}, "interpolation 'cubic'; did you mean 'bicubic'"),
        ({"interpolation": 3}, "interpolation 3"),
        ({"interpolation": "random"}, "interpolation"),
        ({"std": [0.2, 0.0, 0.2]}, "std .* divided by it"),
        ({"std": [0.2, -0.1, 0.2]}, "std"),
        ({"std": 0.5}, "std 0.5"),
        ({"mean": ["a", "b", "c"]}, "mean"),
        ({"mean": [float("inf"), 0.0, 0.0]}, "mean"),
        ({"input_size": [3, 0, 8]}, "input_size"),
        ({"input_size": [3, -8, 8]}, "input_size"),
        ({"input_size": [3, 8]}, "input_size"),
        ({"input_size": [3, 8.0, 8]}, "input_size"),
        ({"input_size": [3, 10**9, 8]}, "input_size"),
        ({"input_size": 224}, "input_size"),
        ({"input_size": None}, "input_size"),
    ],
)
def test_wrong_values_are_named(values: dict[str, object], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        Preprocessing.from_dict(values)


def test_one_channel_models_get_gray(picture: Image.Image) -> None:
    preprocessing = Preprocessing((1, 16, 16), mean=(0.5,), std=(0.5,))

    assert preprocessing.transform()(picture).shape == (1, 16, 16)
    assert preprocessing.augmented(torch.Generator())(picture).shape == (1, 16, 16)


def test_augmented_views_follow_their_generator(picture: Image.Image) -> None:
    preprocessing = Preprocessing((3, 32, 48))

    first, again, other = (preprocessing.augmented(torch.Generator().manual_seed(seed))(picture) for seed in (1, 1, 2))

    assert first.shape == (3, 32, 48)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.isfinite(first).all()


@pytest.mark.parametrize(("height", "width"), [(224, 224), (30, 400), (400, 30), (8, 8)])
def test_crop_boxes_lie_inside_and_are_half_to_whole(height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        top, left, crop_height, crop_width = random_crop_box(height, width, 1.0, generator)
        assert 0 <= top <= top + crop_height <= height
        assert 0 <= left <= left + crop_width <= width
        square = min(height, width) ** 2
        rounding = crop_height + crop_width
        assert crop_height * crop_width == square or crop_height * crop_width >= 0.5 * height * width - rounding


def test_the_callers_default_type_changes_no_pixel(picture: Image.Image) -> None:
    preprocessing = Preprocessing((3, 16, 16))
    expected = preprocessing.transform()(picture)
    torch.set_default_dtype(torch.float64)
    try:
        got = preprocessing.transform()(picture)
    finally:
        torch.set_default_dtype(torch.float32)
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)


def test_an_assumed_preprocessing_says_how_to_change_it() -> None:
    assert "preprocessing=" in Preprocessing(assumed=True).describe()
