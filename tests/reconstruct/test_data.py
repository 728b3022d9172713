from collections.abc import Callable

import pytest
import torch

from vitq.reconstruct import Reconstruct
from vitq.reconstruct.data import count_held_out
from vitq.run import Run


@pytest.mark.parametrize(
    ("images", "most", "held_out"), [(1000, 64, 64), (128, 64, 25), (5, 64, 1), (4, 64, 0), (9, 0, 0)]
)
def test_no_more_than_a_fifth_is_held_out(images: int, most: int, held_out: int) -> None:
    assert count_held_out(images, most) == held_out


def test_a_handful_of_images_is_enough(make_run: Callable[..., Run]) -> None:
    run = make_run()
    run.images_NCHW = run.images_NCHW[:3]
    before = error(run)
    Reconstruct.model_validate({"steps": 20, "batch": 8, "precision": "float32"}).apply(run)
    assert error(run) < before


@torch.no_grad()
def error(run: Run) -> float:
    return float((run.student(run.images_NCHW) - run.teacher(run.images_NCHW)).square().mean())
