"""What graph tests share: the least that a quantizer can be."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn


class Rounding(nn.Module):
    """Round to multiples of a stored step: the least that a quantizer can be."""

    def __init__(self, step: float = 0.125) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.tensor(step), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x / self.step).round() * self.step


@pytest.fixture(scope="module")
def captured_anew(captures: Any) -> Iterator[None]:
    """Capture equal models again, for tests that are about what capturing does to the caller's model."""
    captures.anew = True
    yield
    captures.anew = False


@pytest.fixture(scope="session")
def rounding() -> type[Rounding]:
    return Rounding
