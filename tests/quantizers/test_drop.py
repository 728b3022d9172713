"""QDrop masks: rate, determinism, memory order, growth."""

import pytest
import torch

from vitq.errors import RecipeError
from vitq.quantizers import DropMask


def masks(seed: int) -> list[torch.Tensor]:
    drop = DropMask(0.5, pool_size=4096, generator=torch.Generator().manual_seed(seed))
    return [drop(torch.empty(shape)).clone() for shape in ((3, 100), (7,), (100, 100), (3, 100))]


def test_same_seed_same_masks() -> None:
    assert all(torch.equal(a, b) for a, b in zip(masks(1), masks(1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(masks(1), masks(2), strict=True))


def test_successive_masks_differ() -> None:
    drop = DropMask(0.5)
    x = torch.empty(1000)
    assert not torch.equal(drop(x), drop(x))


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 1.0])
def test_p_is_the_rate_of_floating_point(p: float) -> None:
    mask = DropMask(p)(torch.empty(200, 500))
    assert mask.dtype == torch.bool
    assert abs(float((~mask).float().mean()) - p) < 0.01


def test_mask_lies_in_memory_like_x() -> None:
    x = torch.empty(2, 5, 3, 4).transpose(1, 2)
    mask = DropMask()(x)
    assert mask.shape == x.shape
    assert mask.stride() == x.stride()


def test_pool_grows_with_the_tensor() -> None:
    drop = DropMask(pool_size=128)
    assert drop(torch.empty(1000)).shape == (1000,)
    assert drop(torch.empty(())).shape == ()


def test_p_must_be_a_probability() -> None:
    with pytest.raises(RecipeError, match=r"\[0, 1\]"):
        DropMask(1.5)
