from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitq.models import Preprocessing


@pytest.fixture(scope="session")
def preprocessing() -> Preprocessing:
    return Preprocessing((3, 16, 16), crop_pct=1.0)


def picture(seed: int) -> Image.Image:
    """A picture of its own for every seed."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 20, 3), dtype=np.uint8))


@pytest.fixture(scope="session")
def make_picture() -> Callable[[int], Image.Image]:
    return picture


@pytest.fixture
def flat_folder(tmp_path: Path) -> Path:
    for seed in range(20):
        picture(seed).save(tmp_path / f"{seed:02d}.png")
    (tmp_path / "README.txt").write_text("not an image")
    (tmp_path / "._00.png").write_bytes(b"what a Mac leaves")
    return tmp_path


class Warnings(list[tuple[str, str]]):
    """Collects named warnings; called like ``Events.warn``."""

    def __call__(self, name: str, message: str) -> None:
        self.append((name, message))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self]


@pytest.fixture
def warned() -> Warnings:
    return Warnings()
