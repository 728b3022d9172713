"""Smoothing keeps the function before anything is quantized, and leaves alone what it would change."""

from typing import Any

import torch
from torch import nn

from vitq.bits import Bits
from vitq.graph import Graph, capture
from vitq.rewrite import Smooth
from vitq.run.run import Run


class Mlp(nn.Module):
    """A GELU with outlier channels, read by ``fc2``; ``shared``: a second GELU is read by the same ``fc2``."""

    def __init__(self, shared: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.fc2, self.shared = nn.Linear(16, 32), nn.Linear(32, 8), shared
        with torch.no_grad():
            self.fc1.weight[:3] *= 40

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.gelu(self.fc1(x.flatten(2).mean(1)))
        z = self.fc2(y)
        return z + self.fc2(nn.functional.gelu(-self.fc1(x.flatten(2).mean(1)))) if self.shared else z


def smoothed(model: nn.Module, x: torch.Tensor) -> tuple[Graph, Run]:
    graph = capture(model, x)
    run = Run(graph, graph.clone(), x, Bits.parse("w4a4"))
    Smooth(images=16).apply(run)
    return run.student, run


def images(**options: Any) -> torch.Tensor:
    return torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(1), **options)


@torch.no_grad()
def test_the_function_stays_and_the_outliers_shrink() -> None:
    model, x = Mlp().eval(), images()
    student, _ = smoothed(model, x)
    factors = [t for name, t in student.module.named_buffers() if name.endswith("_smooth")]
    assert len(factors) == 1
    assert float(factors[0].min()) < 0.9
    torch.testing.assert_close(student(x), model(x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_weight_that_two_operations_read_is_left_alone_and_named() -> None:
    model, x = Mlp(shared=True).eval(), images()
    student, run = smoothed(model, x)
    torch.testing.assert_close(student(x), model(x), rtol=1e-5, atol=1e-5)
    assert {w.name for w in run.events.warnings} == {"smooth-skipped"}
