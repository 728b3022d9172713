"""benchmarks/outputs.py: how far two saliency maps are apart."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch


def test_maps_are_compared_by_difference_and_by_what_they_mark(benchmark: Callable[[str], ModuleType]) -> None:
    like_NHW = torch.tensor([[[0.9, 0.8], [0.1, 0.0]], [[0.2, 0.2], [0.2, 0.2]]])
    found_NHW = torch.tensor([[[0.9, 0.4], [0.1, 0.0]], [[0.2, 0.2], [0.2, 0.2]]])
    row = benchmark("outputs").compared(found_NHW, like_NHW)
    assert row == {"difference": pytest.approx(0.05), "iou": pytest.approx(0.75)}  # a half, and two empty areas
