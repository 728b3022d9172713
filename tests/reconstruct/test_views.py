"""Views: drawn anew for every step, seen by the segment as its own images are, in bounded memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vitq.errors import RecipeError
from vitq.reconstruct import Reconstruct, views
from vitq.reconstruct.data import Data
from vitq.reconstruct.groups import Views
from vitq.reconstruct.views import Supply, draw_views
from vitq.run.run import Run

QUICK: dict[str, Any] = {"steps": 6, "batch": 8, "evaluation": {"held_out": 16}, "compute": {"precision": "float32"}}
ALL = {"crop": 0.5, "flip": 0.5, "mix": 0.5}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_view_is_an_image_its_mirror_a_part_or_a_mix_of_two() -> None:
    images = torch.randn(3, 3, 8, 6, generator=seeded())

    def nearest(x_NCHW: torch.Tensor) -> float:
        return max(min(float((x - image).abs().max()) for image in images) for x in x_NCHW)

    assert nearest(draw_views(images, 9, Views(), seeded())) == 0
    assert nearest(draw_views(images, 9, Views(flip=1), seeded()).flip(-1)) == 0
    gray = torch.arange(3.0)[:, None, None, None].expand(3, 3, 8, 6)
    cropped = draw_views(gray, 20, Views(crop=0.3), seeded())
    torch.testing.assert_close(cropped, cropped[:, :1, :1, :1].round().expand_as(cropped), rtol=0, atol=1e-5)
    mixed = draw_views(gray, 40, Views(mix=1), seeded())[:, 0, 0, 0]
    assert float((mixed - mixed.round()).abs().max()) > 0.1 and float(mixed.min()) >= 0 and float(mixed.max()) <= 2
    first, second = (draw_views(images, 5, Views(**ALL), seeded()) for _ in range(2))
    assert torch.equal(first, second) and first.shape == (5, 3, 8, 6)


def test_a_supply_gives_each_view_as_often_as_asked_and_no_more_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def see(x_NCHW: torch.Tensor) -> Data:
        return Data(x_NCHW, x_NCHW, x_NCHW, None, None, None, len(x_NCHW))

    monkeypatch.setattr(views, "LIMIT", 1000)
    supply = Supply(torch.randn(4, 3, 2, 2), Views(flip=0.5, reuse=2), see, image_bytes=50)
    assert supply.steps(8, 100) == 5 and supply.steps(8, 3) == 3 and supply.steps(64, 100) == 2
    data, rows_SB = supply.draw(8, 5, seeded())
    assert len(data.target) == 20 and rows_SB.shape == (5, 8)
    assert torch.equal(rows_SB.flatten().bincount(), torch.full((20,), 2))
    assert supply.draw(8, 1, seeded())[1].unique().numel() == 8  # the last step has no image twice


def test_gradients_are_balanced_on_the_views_that_are_there(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "LIMIT", 1)  # one step's views at a time
    objective = {"global": 0.5, "balance": "gradient"}
    run = make_run()
    before = _error(run)
    Reconstruct.model_validate({**QUICK, "batch": 2, "objective": objective, "views": ALL}).apply(run)
    assert _error(run) < before


@pytest.mark.parametrize("objective", [{}, {"global": 0.5}, {"global": 0.5, "global_on": "outputs", "local": 0.1}])
def test_training_on_views_helps_and_differs_from_training_on_images(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, objective: dict[str, Any]
) -> None:
    monkeypatch.setattr(views, "LIMIT", 1 << 19)  # several supplies a segment
    runs = [make_run() for _ in range(3)]
    errors = [_error(runs[0])]
    for run, options in zip(runs, ({}, ALL, ALL), strict=True):
        Reconstruct.model_validate({**QUICK, "objective": objective, "views": options}).apply(run)
        errors.append(_error(run))
    assert errors[2] < errors[0] and errors[1] != errors[2] == errors[3]


def test_views_go_through_the_prefix_as_images_do(make_run: Callable[..., Run]) -> None:
    """A supply of unchanged images has the very activations that the images have."""
    run = make_run()
    seen = list[Data]()
    draw = Supply.draw

    def kept(self: Supply, *rest: Any) -> tuple[Data, torch.Tensor]:
        seen.append(self.see(run.images_NCHW[:4]))
        return draw(self, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Supply, "draw", kept)
        step = Reconstruct.model_validate(
            {**QUICK, "steps": 1, "objective": {"global": 1}, "views": {"flip": 0.5}, "schedule": ["unit"]}
        )
        step.apply(run)
    assert len(seen) >= 5
    last = next(data for data in reversed(seen) if data.goal is not None)
    assert isinstance(last.goal, torch.Tensor) and len(last.goal) == 4
    feature = run.teacher.segment(run.teacher.cuts[0], run.teacher.feature)(run.images_NCHW[:4])
    torch.testing.assert_close(last.goal, feature, rtol=1e-4, atol=1e-5)


def test_a_curvature_of_images_has_none_for_views(make_run: Callable[..., Run]) -> None:
    step = Reconstruct.model_validate({**QUICK, "objective": {"curvature": "fisher"}, "views": ALL})
    with pytest.raises(RecipeError, match="one for each image"):
        step.apply(make_run())


def test_a_killed_run_draws_the_same_views(
    make_run: Callable[..., Run], kill_after: Callable[[Run, int], list[str]], tmp_path: Path
) -> None:
    step = Reconstruct.model_validate({**QUICK, "views": ALL})
    whole, killed = make_run(), make_run(checkpoints=tmp_path)
    step.apply(whole)
    kill_after(killed, 2)
    with pytest.raises(KeyboardInterrupt):
        step.apply(killed)
    again = make_run(checkpoints=tmp_path, resume=True)
    step.apply(again)
    assert _error(again) == _error(whole)


def _error(run: Run) -> float:
    with torch.no_grad():
        return float((run.student(run.images_NCHW) - run.teacher(run.images_NCHW)).square().mean())
