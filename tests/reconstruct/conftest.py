from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vitq.bits import Bits
from vitq.calibrate import Calibrate, Insert
from vitq.events import Events
from vitq.graph import Graph, capture
from vitq.models.torchvision_shim import ensure_torchvision
from vitq.run import Run
from vitq.store import Store

IMAGES = 48


@pytest.fixture(scope="session")
def teachers() -> dict[str, Graph]:
    ensure_torchvision()
    import timm

    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=10
    )
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=32,
        window_size=4,
        embed_dim=24,
        depths=(2, 2),
        num_heads=(2, 4),
        num_classes=10,
    )
    x_BCHW = torch.randn(2, 3, 32, 32)
    return {"vit": capture(vit, x_BCHW), "swin": capture(swin, x_BCHW)}


@pytest.fixture
def make_run(teachers: dict[str, Graph]) -> Callable[..., Run]:
    """Return a function that makes a calibrated run at 3 bits."""

    def make(model: str = "vit", store: Path | None = None, resume: bool = False, bits: str = "w3a3") -> Run:
        images = torch.randn(IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        teacher = teachers[model]
        run = Run(
            teacher,
            teacher.clone(),
            images,
            Bits.parse(bits),
            events=Events(),
            store=Store(store, {"a": 1}, resume),
        )
        Insert().apply(run)
        Calibrate(images=8, weights="mse", activations="mse").apply(run)
        return run

    return make
