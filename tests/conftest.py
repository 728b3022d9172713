"""What all tests share: real data where it is present, and one thread each when tests run in parallel."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vitq.models.torchvision_shim import ensure_torchvision

TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": (
        "vit_tiny_patch16_224",
        {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3},
    ),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 32, "window_size": 4, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)},
    ),
    "swinv2": (
        "swinv2_tiny_window8_256",
        {"img_size": 32, "window_size": 4, "embed_dim": 24, "depths": (1, 1), "num_heads": (2, 4)},
    ),
    "beit": (
        "beit_base_patch16_224",
        {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 3},
    ),
    "levit": (
        "levit_128s",
        {"img_size": 32, "embed_dim": (32, 48), "num_heads": (2, 3), "key_dim": 8, "depth": (1, 1)},
    ),
}


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., nn.Module]:
    """Return a function that makes a small model of TINY: x_BCHW of 3x32x32 to 10 logits, always the same weights."""

    def make(family: str, **options: Any) -> nn.Module:
        ensure_torchvision()
        import timm

        name, own = TINY[family]
        torch.manual_seed(0)
        model: nn.Module = timm.create_model(name, num_classes=10, **{**own, **options})
        return model

    return make


class Small(nn.Module):
    """The least that looks like a vision transformer: patches, one residual linear behind a norm, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
        self.fc, self.head = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BTC = self.patch(x_BCHW).flatten(2).transpose(1, 2)
        x_BTC = x_BTC + self.fc(self.norm(x_BTC))
        logits_BK: torch.Tensor = self.head(x_BTC.mean(1))
        return logits_BK


@pytest.fixture(scope="session")
def small_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of a very small model, of images 3x8x8 and 5 classes; to be copied, not changed."""
    import vitq

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("artifact") / "small"
    vitq.quantize(Small(), torch.randn(16, 3, 8, 8), recipe="rtn", out=folder, progress=False)
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real weights and images that lies beside some checkouts; tests that want it are
    skipped elsewhere.
    """
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside this checkout: real weights and images are not part of the project")
    return folder
