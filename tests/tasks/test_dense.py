"""Maps end to end: a folder of images and masks, the verbs of the command line, and formulas written out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner, Result

import vitq
from vitq.cli import app
from vitq.data import load_labelled, open_images
from vitq.errors import DataError
from vitq.graph.outputs import Outputs
from vitq.models import LoadedModel, Preprocessing
from vitq.tasks import Dense
from vitq.tasks.maps import depth_errors, mean_iou


class Segmenter(nn.Module):
    """Images of 16x16 to logits of three classes on 4x4, in a dict as segmenters have them."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.norm, self.fc = nn.Conv2d(3, 8, 4, 4), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1)
        self.head = nn.Conv2d(8, classes, 1)

    def forward(self, x_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        x_BCHW = self.patch(x_BCHW)
        return {"logits": self.head(x_BCHW + self.fc(self.norm(x_BCHW)))}


def run_cli(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


LOADED = Preprocessing((3, 16, 16), 1.0, "squash", "bilinear", (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masks")
    draws = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for number in range(6):
        Image.fromarray(draws.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"images/{number}.png")
        mask = draws.integers(0, 3, (20, 24), dtype=np.uint8)
        mask[:2] = 255
        Image.fromarray(mask).save(folder / f"masks/{number}_mask.png")
    return folder


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Callable[[nn.Module], None]:
    """Return a function that lets the name ``given`` on a command line be a module."""

    def name(module: nn.Module) -> None:
        import vitq.run.inputs as inputs

        source = {"kind": "module", "name": "given", "weights": "module", "sha256": "0" * 64}
        loaded = LoadedModel(module.eval(), LOADED, "given", source)
        monkeypatch.setattr(inputs, "load_model", lambda *_, **__: loaded)

    return name


def test_a_dense_model_is_quantized_and_evaluated_with_masks_by_the_command_line(
    masks: Path, named: Callable[[nn.Module], None], tmp_path: Path
) -> None:
    named(Segmenter())
    options = (
        "--images",
        str(masks),
        "--recipe",
        "rtn",
        "--bits",
        "w8a8",
        "--limit",
        "6",
        "--out",
        str(tmp_path / "a"),
    )
    made = run_cli("quantize", "given", *options, "--validation", str(masks))
    assert made.exit_code == 0, made.output
    assert "task dense: maps of 3 classes" in made.stderr and "mIoU" in made.stdout

    result = run_cli("evaluate", str(tmp_path / "a"), "--images", str(masks), "--json")
    assert result.exit_code == 0, result.output
    scores = json.loads(result.stdout)["scores"]
    again = vitq.load(tmp_path / "a")
    assert again.config.task == "dense" and again.metrics.agreement > 90
    assert scores["miou"] == again.metrics.scores["miou"] and 0 < scores["pixels"] < 100
    assert again.metrics.fp_scores["miou"] == pytest.approx(scores["miou"], abs=5)
    assert "mIoU" in run_cli("evaluate", "given", "--images", str(masks), "--quiet").stdout


def test_wrong_labels_for_a_task_end_in_a_clear_error(masks: Path, tmp_path: Path) -> None:
    x_NCHW, classes = torch.randn(4, 3, 16, 16), nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    for model, labels, words in (
        (Segmenter(), torch.arange(4) % 2, "labels are classes, and task 'dense' takes of each image a map"),
        (classes, torch.ones(4, 16, 16, dtype=torch.uint8), "labels are maps, and task 'classes' takes"),
        (Segmenter(), torch.full((4, 16, 16), 3, dtype=torch.uint8), "a map holds class 3.* only 3 classes"),
        (Segmenter(), torch.ones(4, 16, 12, dtype=torch.uint8), "have 12x16 and 16x16 pixels"),
        (Segmenter(), torch.rand(4, 16, 16), "numbers that are not whole"),
        (Segmenter(), [{"boxes": [[0, 0, 8, 8]], "labels": [1]}] * 4, "labels are boxes, and task 'dense'"),
    ):
        with pytest.raises(DataError, match=words):
            vitq.evaluate(model, (x_NCHW, labels), progress=False)
    (masks / "masks/0_mask.png").rename(tmp_path / "kept.png")
    try:
        with pytest.raises(DataError, match=r"0\.png has no map of its name"):
            open_images(masks)
    finally:
        (tmp_path / "kept.png").rename(masks / "masks/0_mask.png")


@pytest.mark.parametrize("mode", ["center", "squash", "shortest_edge", "border"])
def test_a_mask_goes_where_its_picture_goes(mode: Any, tmp_path: Path) -> None:
    """The picture is the mask: its pixels, prepared with the same nearest pixels, are the label."""
    draws = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number, shape in enumerate(((20, 33), (41, 17))):
        mask = draws.integers(1, 200, shape, dtype=np.uint8)
        Image.fromarray(np.stack([mask] * 3, 2)).save(tmp_path / f"images/{number}.png")
        Image.fromarray(mask).save(tmp_path / f"masks/{number}.png")
    preprocessing = Preprocessing((3, 16, 12), 0.8, mode, "nearest", (0.0,) * 3, (1.0,) * 3)
    x_BCHW, labels_B1HW = next(load_labelled(open_images(tmp_path), preprocessing))
    pixels_BHW = (255 * x_BCHW[:, 0]).round()
    assert labels_B1HW.dtype is torch.int16
    torch.testing.assert_close(labels_B1HW[:, 0].clamp(min=0).float(), pixels_BHW)
    assert bool(((labels_B1HW[:, 0] < 0) == (pixels_BHW == 0)).all())


def test_calibration_takes_the_images_and_not_the_masks(masks: Path) -> None:
    source = open_images(masks, labels=False)
    assert len(source) == 6 and not source.labelled and source.items[0].name == "0.png"


def test_the_mean_intersection_over_union_is_that_of_sets() -> None:
    draws = torch.Generator().manual_seed(0)
    mine, theirs = (torch.randint(0, 4, (5, 1, 6, 7), generator=draws) for _ in range(2))
    theirs[theirs == 3] = 2  # class 3 occurs on one side only
    counted = torch.rand(5, 1, 6, 7, generator=draws) < 0.8
    miou, pixels = mean_iou(mine, theirs, counted, 6)
    ratios = []
    for c in range(4):
        a, b = (mine == c) & counted, (theirs == c) & counted
        ratios.append(int((a & b).sum()) / int((a | b).sum()))
    assert miou == pytest.approx(100 * sum(ratios) / 4)
    assert pixels == pytest.approx(100 * float((mine == theirs)[counted].double().mean()))


def test_errors_of_depth_follow_their_formulas() -> None:
    draws = torch.Generator().manual_seed(0)
    labels = 1 + 9 * torch.rand(3, 1, 4, 5, generator=draws)
    labels[0, 0, 0, 0], labels[1, 0, 2] = torch.nan, 0.0
    found = depth_errors(2 * labels + 3, labels)
    known = labels[labels.isfinite()].double()
    positive = known[known > 0]
    assert found["mae"] == pytest.approx(float((known + 3).mean()))
    assert found["abs_rel"] == pytest.approx(float(((positive + 3) / positive).mean()))
    assert found["aligned_abs_rel"] == pytest.approx(0, abs=1e-6)
    unit = torch.tensor([[[[0.0, 1.0], [1.0, 0.2]]]])
    assert depth_errors(torch.tensor([[[[0.1, 0.9], [0.3, 0.2]]]]), unit) == {
        "mae": pytest.approx(0.225), "iou": pytest.approx(50.0)
    }  # fmt: skip


def test_maps_of_numbers_are_scored_in_their_own_unit() -> None:
    """An 8-bit picture says 0 to 1, and a map that is smaller than the image is enlarged first."""
    task = Dense.fit({"logits": (1, 2, 2)})
    assert task is not None and task.metric == "mae"
    outputs = {"logits": torch.full((2, 1, 2, 2), 0.4)}
    summary = task.summary_at(outputs, (4, 6))
    labels = torch.full((2, 1, 4, 6), 51, dtype=torch.int16)
    assert summary["logits"].shape == (2, 1, 4, 6)
    assert task.score(summary, labels)["mae"] == pytest.approx(0.2)
    assert task.score(summary, labels.float())["mae"] == pytest.approx(50.6)
    assert task.agreement(summary, {"logits": torch.full((2, 1, 4, 6), 0.6)}) == {
        "relative_error": pytest.approx(1 / 3), "cosine": pytest.approx(1), "mae_agreement": pytest.approx(0.2),
        "iou_agreement": 0.0,
    }  # fmt: skip


def test_the_fisher_of_pixels_is_the_curvature_of_their_divergence() -> None:
    """E[(g·d)²] of drawn classes = twice the distance of a small change d, both for each image."""
    draws = torch.Generator().manual_seed(0)
    task = Dense("logits", 3)
    reference: Outputs = {"logits": torch.randn(1, 3, 2, 2, generator=draws)}
    change = 0.01 * torch.randn(1, 3, 2, 2, generator=draws)
    expected = 2 * float(task.distance({"logits": reference["logits"] + change}, reference))
    many = {"logits": reference["logits"].expand(4000, -1, -1, -1).clone().requires_grad_()}
    drawn = task.draw({"logits": many["logits"].detach()}, draws)
    (gradient,) = torch.autograd.grad(task.log_likelihood(many, drawn).sum(), many["logits"])
    got = float((gradient * change).flatten(1).sum(1).square().mean())
    assert got == pytest.approx(expected, rel=0.1)
