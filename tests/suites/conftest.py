"""A suite of a very small model and small pictures, and results without measuring."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from vitq.cli import app
from vitq.suites.cells import Cell, cells_of
from vitq.suites.suite import parse_suite

SUITE = """
name: small
images: calibration
validation: validation
limit: 8
models: {Tiny: tiny}
recipes: [rtn]
bits: [w4a4]
"""


@pytest.fixture(scope="session")
def data(tiny: Callable[..., nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that timm saved, calibration and validation images of two classes."""
    folder = tmp_path_factory.mktemp("data")
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    model = tiny("vit", **{key: value for key, value in arguments.items() if key != "img_size"})
    (folder / "tiny").mkdir()
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 10,
        "model_args": arguments,
        "pretrained_cfg": {"input_size": [3, 32, 32]},
    }
    (folder / "tiny" / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "tiny" / "model.safetensors")
    generator = np.random.default_rng(0)
    for part in ("calibration", "validation"):
        for name in ("a", "b"):
            (folder / part / name).mkdir(parents=True)
            for number in range(6):
                pixels = generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")
    return folder


@pytest.fixture
def suite_file(tmp_path: Path) -> Path:
    """The suite's file."""
    path = tmp_path / "small.yaml"
    path.write_text(SUITE)
    return path


@pytest.fixture
def cells(data: Path, tmp_path: Path) -> Callable[..., tuple[Cell, ...]]:
    """Return a function that gives the cells of a suite with other lines."""

    def make(**lines: Any) -> tuple[Cell, ...]:
        return cells_of(parse_suite(changed(**lines), "s"), tmp_path, data)

    return make


def changed(**lines: Any) -> str:
    """Return the suite with other lines, each as JSON."""
    kept = [line for line in SUITE.splitlines() if line and line.partition(":")[0] not in lines]
    return "\n".join([*kept, *(f"{key}: {json.dumps(value)}" for key, value in lines.items())])


@pytest.fixture(scope="session")
def written() -> Callable[..., str]:
    """Return ``changed``."""
    return changed


@pytest.fixture(scope="session")
def row() -> Callable[..., dict[str, Any]]:
    """Return ``result``."""
    return result


def result(score: float, right: Any = None, **own: Any) -> dict[str, Any]:
    """Return a result."""
    found: dict[str, Any] = {"metric": "top1", "score": score, "images": 0, "scores": {"top1": score}, **own}
    if right is not None:
        mask = torch.as_tensor(right).bool().numpy()
        found |= {"images": len(mask), "correct": bytes(np.packbits(mask)).hex()}
    return found


@pytest.fixture
def vitq_cli(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run ``vitq`` with arguments."""
    monkeypatch.setenv("COLUMNS", "160")
    return lambda *arguments: CliRunner().invoke(app, list(arguments))
