"""What graph tests share: the least that a quantizer can be, and running a chain of spans."""

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import nn

from vitq.graph import Graph, Span


class Rounding(nn.Module):
    """Round to multiples of a stored step: the least that a quantizer can be."""

    def __init__(self, step: float = 0.125) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.tensor(step), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x / self.step).round() * self.step


@pytest.fixture(scope="session")
def rounding() -> type[Rounding]:
    return Rounding


@pytest.fixture(scope="session")
def run_spans() -> Callable[[Graph, Iterable[Span], torch.Tensor], torch.Tensor]:
    def run(graph: Graph, spans: Iterable[Span], x: torch.Tensor) -> torch.Tensor:
        for span in spans:
            x = graph.segment(span.start, span.end)(x)
        return x

    return run
