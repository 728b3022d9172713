"""Calibration without data: images that a model makes, kept and made again, and noise."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vitq
from vitq.data.noise import noise_images, roughness, similarity_entropy
from vitq.errors import DataError, ModelError
from vitq.models import Preprocessing, load_model
from vitq.run import synthetic
from vitq.run.events import Events

SIZE = {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.25,) * 3}
CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VITQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(synthetic, "STEPS", 12)
    monkeypatch.setattr(synthetic, "GROUP", 3)
    return tmp_path / "cache"


def made(model: nn.Module, count: int, seed: int = 0) -> tuple[torch.Tensor, list[str]]:
    with Events() as events:
        loaded = load_model(model, preprocessing=SIZE)
        x_NCHW = synthetic.generated_images(loaded, "synthetic", count, 1, seed, CPU, events)
        return x_NCHW, [name for name, _ in events.warnings]


def test_synthetic_images_are_within_bounds_seeded_and_read_back(one_block: nn.Module, cache: Path) -> None:
    x_NCHW, warnings = made(one_block, 5)
    assert x_NCHW.shape == (5, 3, 8, 8) and float(x_NCHW.abs().max()) <= 2.0 and warnings == ["synthetic-images"]
    kept = sorted(cache.rglob("*.safetensors"))
    assert [file.name for file in kept] == ["0.safetensors", "1.safetensors"]
    kept[0].unlink()  # as a kill leaves it: one group is done, one is not
    times = kept[1].stat().st_mtime_ns
    again, _ = made(one_block, 5)
    assert torch.equal(again, x_NCHW) and kept[0].exists() and kept[1].stat().st_mtime_ns == times
    kept[1].write_bytes(b"damaged")
    assert torch.equal(made(one_block, 5)[0], x_NCHW)
    assert not torch.equal(made(one_block, 3, seed=1)[0], x_NCHW[:3])


def test_synthetic_images_are_nearer_to_what_they_are_made_for_than_noise(
    one_block: nn.Module, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "STEPS", 40)
    x_NCHW, _ = made(one_block, 3)
    loaded = load_model(one_block, preprocessing=SIZE)
    start = noise_images(loaded.preprocessing, 3, synthetic._generator(0, "synthetic", 0))
    loss = synthetic._objective(loaded, 0, CPU)
    assert float(loss(x_NCHW, 0)) < float(loss(start, 0)) - 0.1


def test_entropy_tells_tokens_that_resemble_each_other_in_many_ways_from_equal_ones() -> None:
    tokens_BTC = torch.randn(2, 30, 6, generator=torch.Generator().manual_seed(0))
    assert float(similarity_entropy(tokens_BTC)) > float(similarity_entropy(tokens_BTC + 20)) + 0.3


def test_noise_is_smoother_than_white_noise_and_as_bright_as_photographs() -> None:
    x_NCHW = noise_images(Preprocessing((3, 64, 64)), 4, torch.Generator().manual_seed(0))
    white = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert float(roughness(x_NCHW / x_NCHW.std()).mean()) < 0.65 * float(roughness(white).mean())
    assert 0.5 < float(x_NCHW.flatten(2).std(2).mean()) < 1.5


@pytest.mark.parametrize("word", ["noise", "synthetic"])
def test_a_model_is_quantized_without_images(one_block: nn.Module, cache: Path, word: str) -> None:
    result = vitq.quantize(one_block, word, recipe="rtn", limit=3, preprocessing=SIZE, progress=False)
    assert f"{word}-images" in [name for name, _ in result.metrics.warnings]
    assert result.config.calibration["images"] == 3


def test_a_folder_of_that_name_is_a_folder(one_block: nn.Module, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "noise").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no images found in 'noise'"):
        vitq.quantize(one_block, "noise", progress=False)


def test_images_are_made_for_whole_models_with_attention_and_for_calibration_alone(one_block: nn.Module) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Flatten(), nn.Linear(16, 5))
    with pytest.raises(ModelError, match=r"no attention.*'noise'"):
        vitq.quantize(plain, "synthetic", preprocessing=SIZE, progress=False)
    with pytest.raises(ModelError, match="whole models"):
        vitq.quantize(nn.Sequential(one_block), "noise", inside="0", progress=False)
    with pytest.raises(DataError, match="calibration images alone"):
        vitq.evaluate(one_block, "noise", progress=False)
