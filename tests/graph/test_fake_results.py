"""Fake results that are kept: equal arguments give the same, and what only looks equal does not."""

from collections import Counter

import pytest
import torch

from vitq.graph.fake_results import fake_empty, fake_like, result_of
from vitq.graph.ops import aten

X_BC = fake_empty((5, 6), torch.int64)


def test_equal_arguments_are_computed_once() -> None:
    calls = Counter[str]()

    def double(x: torch.Tensor) -> torch.Tensor:
        calls["double"] += 1
        return x + x

    first, second = (result_of(double, (fake_like(torch.zeros(7, 3)),), {}) for _ in range(2))
    assert first is second and calls["double"] == 1
    assert result_of(double, (fake_like(torch.zeros(8, 3)),), {}).shape == (8, 3) and calls["double"] == 2


def test_a_whole_number_is_not_its_float() -> None:
    assert result_of(aten.add.Tensor, (X_BC, 1), {}).dtype == torch.int64
    assert result_of(aten.add.Tensor, (X_BC, 1.0), {}).dtype == torch.float32
    assert result_of(aten.add.Tensor, (X_BC, 1), {"alpha": 1}).dtype == torch.int64


def test_equal_shapes_of_other_layouts_are_others() -> None:
    plain, turned = fake_like(torch.zeros(4, 4)), fake_like(torch.zeros(4, 4).mT)
    assert result_of(aten.view.default, (plain, [16]), {}).shape == (16,)
    with pytest.raises((ValueError, RuntimeError), match="view"):
        result_of(aten.view.default, (turned, [16]), {})


def test_an_argument_may_have_any_name() -> None:
    def shifted(x: torch.Tensor, target: torch.Tensor, key: int) -> torch.Tensor:
        return x + target + key

    assert result_of(shifted, (X_BC,), {"target": X_BC, "key": 1}).shape == (5, 6)
