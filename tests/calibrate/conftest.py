"""Tiny models and runs that the tests of calibration share."""

from collections.abc import Callable

import pytest
import torch
from small_models import lively_norms
from torch import nn

from vitq.bits import Bits
from vitq.graph import Graph, capture
from vitq.run.run import Run

MakeRun = Callable[..., Run]


@pytest.fixture(scope="session")
def vit(tiny: Callable[..., nn.Module]) -> Graph:
    """A ViT of width 48 and depth 2 on 32x32 images."""
    graph = capture(tiny("vit"), torch.zeros(2, 3, 32, 32))  # as it is, since other tests capture it too
    graph.module.load_state_dict(lively_norms(tiny("vit")).state_dict(), strict=False)
    return graph


@pytest.fixture
def make_run() -> MakeRun:
    """Return a function that makes a run on a graph, with random images of 32x32."""

    def make(graph: Graph, bits: str = "w4a4", images: int = 8) -> Run:
        generator = torch.Generator().manual_seed(3)
        x_NCHW = torch.randn(images, 3, 32, 32, generator=generator)
        return Run(teacher=graph, student=graph.clone(), images_NCHW=x_NCHW, bits=Bits.parse(bits))

    return make
