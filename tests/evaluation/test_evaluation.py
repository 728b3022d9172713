"""Teacher and student are measured on the same images, and a run does not end where its measuring fails."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import vitq
from vitq.errors import DataError, ModelError
from vitq.evaluation import Evaluator
from vitq.graph import Graph
from vitq.models import LoadedModel, Preprocessing
from vitq.run.events import Events

X = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 5


class Shifted(nn.Module):
    """Logits that tell images apart."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :5]


def evaluator(validation: Any, classes: int | None = 5) -> Evaluator:
    preprocessing = Preprocessing((3, 8, 8), assumed=True)
    loaded = LoadedModel(Shifted(), preprocessing, "Shifted", {}, classes)
    return Evaluator(loaded, validation, X, torch.device("cpu"), Events())


def measured(one: Evaluator, student: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Any:
    """What the second model scores, by default the first one again."""
    one(cast(Graph, Shifted()), "floating point")
    return one(cast(Graph, student or Shifted()), "quantized")


@pytest.mark.parametrize("kind", ["generator", "shuffled", "pair", "no labels"])
def test_both_are_measured_on_the_same_images(kind: str) -> None:
    validation: Any = {
        "generator": ((x, int(y)) for x, y in zip(X, LABELS, strict=True)),
        "shuffled": DataLoader(TensorDataset(X, LABELS), 8, shuffle=True),
        "pair": (X, LABELS),
        "no labels": X,
    }[kind]
    one = evaluator(validation)

    metrics = measured(one)

    assert metrics.images == 40 and metrics.agreement == 100.0
    assert (metrics.top1 is None) is (kind == "no labels")
    assert [name for name, _ in one.events.warnings] == (["no-labels"] if kind == "no labels" else [])


def test_an_empty_generator_is_noticed_before_the_work() -> None:
    with pytest.raises(DataError, match="gives its images only once"):
        evaluator(iter([]))(cast(Graph, Shifted()), "floating point")


def test_images_that_change_in_between_are_left_out_of_the_comparison(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for number in range(30):
        Image.fromarray(draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"{number:02d}.png")
    one = evaluator(tmp_path)
    first = one(cast(Graph, Shifted()), "floating point")
    (tmp_path / "00.png").write_bytes(b"broken")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "07.png")

    metrics = one(cast(Graph, Shifted()), "quantized")

    assert first.images == 30 and metrics.images == 29 and metrics.agreement == 100.0
    assert "1 of 29 validation images are others" in dict(one.events.warnings)["changed-images"]


def test_what_cannot_be_measured_after_the_work_is_a_warning(tmp_path: Path) -> None:
    Image.effect_noise((8, 8), 50).save(tmp_path / "a.png")
    one = evaluator(tmp_path)
    one(cast(Graph, Shifted()), "floating point")
    (tmp_path / "a.png").unlink()

    assert one(cast(Graph, Shifted()), "quantized").images == 0
    assert "a.png: no such file" in dict(one.events.warnings)["not-measured"]


def test_a_model_of_nan_is_refused_before_the_work_and_told_after_it() -> None:
    def lost(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :5] * float("nan")

    with pytest.raises(ModelError, match="NaN or infinity for 40 of 40 images"):
        evaluator(None)(cast(Graph, lost), "floating point")
    one = evaluator((X, LABELS))
    assert measured(one, lost).top1 == 0.0
    assert "quantized: the model's outputs hold NaN" in dict(one.events.warnings)["not-finite"]


def test_labels_of_a_model_without_classes_are_left_with_a_word() -> None:
    def maps(x: torch.Tensor) -> torch.Tensor:
        return x

    one = evaluator((X, LABELS), None)
    one(cast(Graph, maps), "floating point")
    metrics = one(cast(Graph, maps), "quantized")

    assert metrics.relative_error == 0.0 and metrics.top1 is None
    assert "no-classes" in dict(one.events.warnings)


class Binary(nn.Module):
    """One logit a sample, (B,) or (B, 1)."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.last, self.flat = nn.Linear(48, 32), nn.Linear(32, 1), flat
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.last(torch.relu(self.first(x.flatten(1))))
        return y[:, 0] if self.flat else y


@pytest.mark.parametrize("flat", [False, True])
def test_a_binary_model_is_quantized_measured_and_reported(flat: bool, tmp_path: Path) -> None:
    model, x_NCHW = Binary(flat), torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = (model(x_NCHW).view(-1) > 0).float()[:, None]

    def run(bits: str, **options: Any) -> vitq.QuantizedModel:
        return vitq.quantize(model, x_NCHW, recipe="rtn", bits=bits, limit=64, progress=False, **options)

    coarse, fine = run("w2a2"), run("w8a8", validation=(x_NCHW, labels), out=tmp_path / "run")

    assert coarse.metrics.agreement is None and coarse.metrics.relative_error > 0.1
    assert fine.metrics.relative_error < 0.05 and fine.metrics.cosine > 0.99
    assert fine.metrics.fp_top1 == 100.0 and fine.metrics.top1 > 90 and fine.metrics.top5 is None
    assert vitq.load(tmp_path / "run").evaluate((x_NCHW, labels)).top1 == fine.metrics.top1
    page = (tmp_path / "run" / "report.html").read_text()
    assert "relative error of the outputs" in page and "agreement" not in page


def test_preprocessed_tensors_may_have_any_channels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x_NCHW = torch.randn(16, 4, 8, 8)
    model = nn.Sequential(nn.Conv2d(4, 6, 4, stride=4), nn.Flatten(), nn.Linear(24, 5))
    for images in (x_NCHW, list(x_NCHW), TensorDataset(x_NCHW, torch.rand(16))):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = vitq.quantize(model, images, recipe="rtn", bits="w8a8", limit=16, progress=False)
        assert result.config.preprocessing["input_size"] == [4, 8, 8]
    result.save(tmp_path / "a")
    assert vitq.load(tmp_path / "a").evaluate((x_NCHW, LABELS[:16])).images == 16
    with pytest.raises(DataError, match=r"image 0: a picture|too many unusable|no usable"):
        result.evaluate([(Image.new("RGB", (20, 20)), 0)])


class Rows(Dataset[Any]):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Any:
        return {"pixel_values": X[index], "labels": "cat"}


def test_calibration_takes_what_people_have() -> None:
    def generator() -> Iterator[Any]:
        yield from zip(X.split(8), LABELS.float().split(8), strict=True)

    model = nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), nn.Flatten(), nn.Linear(24, 5))
    for images in (Rows(), DataLoader(TensorDataset(X, X[:, :1]), 8), generator(), X.numpy()):
        result = vitq.quantize(model, images, recipe="rtn", bits="w8a8", limit=16, progress=False)
        assert result.config.calibration["images"] == 16
