"""A quantized model takes batches of the images that it was calibrated for, and says so of all others."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import vitq
from vitq.errors import DataError
from vitq.run.batch import as_batch

SHAPE = (3, 8, 12)


class Any(nn.Module):
    """A model of its own that runs on images of every size: only the check can tell."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.fc, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BTC = self.patches(x_BCHW).flatten(2).transpose(1, 2)
        return self.head((x_BTC + self.fc(x_BTC).relu()).mean(1))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def models(
    images: torch.Tensor, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    torch.manual_seed(0)
    folder: Path = tmp_path_factory.mktemp("runs") / "any"
    model = vitq.quantize(Any(), images, recipe="rtn", bits="w8a8", out=folder, progress=False)
    return {"model": model, "loaded": vitq.load(folder), "integer": model.integer()}


WRONG = {
    "another size": torch.zeros(2, 3, 12, 8),
    "a larger size": torch.zeros(2, 3, 16, 24),
    "one channel": torch.zeros(2, 1, 8, 12),
    "one image": torch.zeros(3, 8, 12),
    "five axes": torch.zeros(1, 2, 3, 8, 12),
    "no image": torch.zeros(0, 3, 8, 12),
    "pixels": torch.zeros(2, 3, 8, 12, dtype=torch.uint8),
    "whole numbers": torch.zeros(2, 3, 8, 12, dtype=torch.int64),
    "complex numbers": torch.zeros(2, 3, 8, 12, dtype=torch.complex64),
    "sparse": torch.zeros(2, 3, 8, 12).to_sparse(),
    "meta": torch.zeros(2, 3, 8, 12, device="meta"),
    "pixels of numpy": np.zeros((2, 3, 8, 12), np.uint8),
    "whole numbers of another byte order": np.zeros((2, 3, 8, 12), ">i4"),
    "channels last": np.zeros((2, 8, 12, 3), np.float32),
    "objects": np.full((2, 3, 8, 12), None),
    "a list": [torch.zeros(3, 8, 12)],
    "nothing": None,
    "a path": "photos/",
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", ["model", "loaded", "integer"])
def test_what_a_model_does_not_take_is_refused_with_what_it_takes(
    models: dict[str, Callable[[object], torch.Tensor]], name: str, wrong: str
) -> None:
    with pytest.raises(DataError, match=r"preprocessed images as a float tensor \(B, 3, 8, 12\)"):
        models[name](WRONG[wrong])


def test_the_remedy_is_named() -> None:
    with pytest.raises(DataError, match=r"x\[None\]"):
        as_batch(torch.zeros(SHAPE), SHAPE)
    with pytest.raises(DataError, match="'evaluate', which does"):
        as_batch(WRONG["pixels"], SHAPE)


@pytest.mark.parametrize("name", ["model", "loaded", "integer"])
def test_floats_of_any_width_and_arrays_are_taken_as_float32(
    models: dict[str, Callable[[object], torch.Tensor]], images: torch.Tensor, name: str
) -> None:
    expected = models[name](images)
    assert expected.dtype == torch.float32 and not expected.requires_grad
    assert torch.equal(models[name](images.double()), expected)
    assert torch.equal(models[name](images.numpy()), expected)
    assert torch.equal(models[name](images.numpy().astype(">f8")), expected)
    assert torch.equal(models[name](images.numpy().astype(np.longdouble)), expected)
    assert torch.equal(models[name](images.clone().requires_grad_()), expected)
    assert torch.equal(models[name](images.half()), models[name](images.half().float()))
    assert torch.equal(models[name](images[::2].flip(0)), models[name](images[::2].flip(0).contiguous()))


def test_evaluate_refuses_images_of_another_size(models: dict[str, vitq.QuantizedModel], images: torch.Tensor) -> None:
    labels = torch.zeros(6, dtype=torch.int64)
    assert models["model"].evaluate((images, labels)).images == 6
    with pytest.raises(DataError, match="12"):
        models["model"].evaluate((images.transpose(2, 3), labels))
