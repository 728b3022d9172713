"""Orthogonal, flat, and true to the vector of ones where that is promised."""

from collections.abc import Callable

import pytest
import torch

from vitq.rewrite.hadamard import block_order, hadamard, ones_preserving, randomized_hadamard

Draw = Callable[[int, torch.Generator], torch.Tensor]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("order", [1, 2, 4, 12, 20, 24, 64, 72, 88, 192, 384])
def test_a_hadamard_matrix_is_flat_and_orthogonal_and_begins_with_ones(order: int) -> None:
    h = hadamard(order) * order**0.5
    assert torch.allclose(h.abs(), torch.ones_like(h)) and torch.allclose(h[:, 0], torch.ones(order).double())
    assert torch.allclose(h.T @ h, order * torch.eye(order).double())


@pytest.mark.parametrize(
    ("width", "order"), [(192, 192), (384, 384), (768, 768), (1152, 1152), (1408, 1408), (36, 12), (25, 1), (18, 2)]
)
def test_the_largest_order_that_divides_the_width_is_taken(width: int, order: int) -> None:
    assert block_order(width) == order
    if order != width:
        with pytest.raises(ValueError, match=f"order {width}"):
            hadamard(width)


@pytest.mark.parametrize("draw", [randomized_hadamard, ones_preserving])
@pytest.mark.parametrize("width", [12, 36, 192])
def test_what_is_drawn_is_orthogonal_and_another_one_each_time(draw: Draw, width: int) -> None:
    q, other = draw(width, generator()), draw(width, generator(1))
    assert torch.allclose(q.T @ q, torch.eye(width).double()) and not torch.allclose(q, other)
    assert torch.equal(q, draw(width, generator()))


@pytest.mark.parametrize("width", [12, 36, 192])
def test_ones_stay_ones_so_mean_and_variance_stay(width: int) -> None:
    q, ones = ones_preserving(width, generator()), torch.ones(width).double()
    assert torch.allclose(ones @ q, ones) and torch.allclose(q @ ones, ones)
    x = torch.randn(5, width, generator=generator()).double()
    norm = torch.nn.functional.layer_norm
    assert torch.allclose(norm(x @ q, [width]), norm(x, [width]) @ q)


def test_one_channel_is_spread_over_all() -> None:
    assert torch.allclose(randomized_hadamard(192, generator()).abs().amax(), torch.tensor(192**-0.5).double())
    assert float(ones_preserving(192, generator()).abs().amax()) < 0.45  # about normal, of deviation 0.07
