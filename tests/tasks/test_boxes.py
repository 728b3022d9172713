"""Boxes: matched to the original's, scored by COCO's measure, read from a COCO json."""

import json
from contextlib import nullcontext
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import vitq
from vitq.data import load_labelled, open_images
from vitq.errors import DataError, GraphError
from vitq.models import Preprocessing, load_model, settle
from vitq.run.inputs import capture_checked
from vitq.tasks import Boxes, SigmoidBoxes
from vitq.tasks.sets import corners, iou, matching


@pytest.fixture
def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_matching_is_the_cheapest_one(draws: torch.Generator) -> None:
    cost = torch.rand(3, 5, 5, generator=draws)
    cost[0] += 1 - torch.eye(5)
    for one, found in zip(cost, matching(cost), strict=True):
        best = min(permutations(range(5)), key=lambda order: sum(float(one[i, j]) for i, j in enumerate(order)))
        assert found.tolist() == list(best)


@pytest.mark.parametrize("kind", [Boxes, SigmoidBoxes])
def test_the_order_of_a_set_does_not_count(kind: type[Boxes], draws: torch.Generator) -> None:
    reference = {
        "logits": 3 * torch.randn(2, 6, 4, generator=draws), "pred_boxes": torch.rand(2, 6, 4, generator=draws),
        "last_hidden_state": torch.randn(2, 6, 3, generator=draws),
    }  # fmt: skip
    task, order = kind("logits"), torch.randperm(6, generator=draws)
    shuffled = {name: y if name == "last_hidden_state" else y[:, order] for name, y in reference.items()}
    assert float(task.distance(shuffled, reference)) == pytest.approx(0, abs=1e-6)
    assert task.agreement(shuffled, reference) == {
        "agreement": pytest.approx(100), "iou_agreement": pytest.approx(100)
    }  # fmt: skip
    moved = {**shuffled, "pred_boxes": (shuffled["pred_boxes"] + 0.05).requires_grad_()}
    far = task.distance(moved, reference)
    assert float(far.detach()) == pytest.approx(5 * 4 * 0.05, rel=1e-4)
    far.backward()
    gradient, moved["pred_boxes"] = moved["pred_boxes"].grad, moved["pred_boxes"].detach()
    assert gradient is not None and float(gradient.abs().sum()) > 0
    assert 0 < task.agreement(moved, reference)["iou_agreement"] < 100


def test_classes_of_queries_are_compared_by_their_divergence(draws: torch.Generator) -> None:
    reference, outputs = (torch.randn(1, 1, 3, generator=draws) for _ in range(2))
    p, q = reference.softmax(-1), outputs.softmax(-1)
    got = Boxes("logits").distance({"logits": outputs}, {"logits": reference})
    torch.testing.assert_close(got, (p * (p / q).log()).sum())
    p, q = reference.sigmoid(), outputs.sigmoid()
    got = SigmoidBoxes("logits").distance({"logits": outputs}, {"logits": reference})
    torch.testing.assert_close(got, (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum())


def test_boxes_lie_on_each_other_by_their_areas() -> None:
    a, b = torch.tensor([[[0.5, 0.5, 1.0, 1.0]]]), torch.tensor([[[0.75, 0.5, 0.5, 0.5]]])
    assert corners(b).tolist() == [[[0.5, 0.25, 1.0, 0.75]]]
    assert float(iou(corners(a), corners(b))) == pytest.approx(0.25)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    draws = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations").mkdir()
    for number in range(3):
        Image.fromarray(draws.integers(0, 256, (40, 80, 3), dtype=np.uint8)).save(tmp_path / f"images/{number}.png")
    content = {
        "images": [{"id": 10 + n, "file_name": f"{n}.png"} for n in range(3)],
        "categories": [{"id": 2}, {"id": 7}],
        "annotations": [
            {"image_id": 10, "category_id": 7, "bbox": [0, 0, 40, 20]},
            {"image_id": 10, "category_id": 2, "bbox": [40, 10, 20, 20], "iscrowd": 1},
            {"image_id": 12, "category_id": 2, "bbox": [20, 10, 40, 20]},
        ],
    }
    path = tmp_path / "annotations" / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_boxes_of_a_coco_json_go_where_their_pictures_go(coco: Path) -> None:
    source = open_images(coco)
    assert len(source) == 3 and source.labelled and len(open_images(coco.parent)) == 3
    _, labels_BM8 = next(load_labelled(source, Preprocessing((3, 32, 32), 1.0, "squash")))
    expected = torch.full((3, 2, 8), -1.0)
    expected[0, 0] = torch.tensor([7, 1, 0, 0, 0.5, 0.5, 0, 7])
    expected[0, 1] = torch.tensor([2, 0, 0.5, 0.25, 0.75, 0.75, 1, 7])
    expected[2, 0] = torch.tensor([2, 0, 0.25, 0.25, 0.75, 0.75, 0, 7])
    torch.testing.assert_close(labels_BM8, expected, rtol=0, atol=0.01)
    _, cut_BM8 = next(load_labelled(source, Preprocessing((3, 40, 40), 1.0, "center")))
    torch.testing.assert_close(cut_BM8[2, 0, 2:6], torch.tensor([0, 0.25, 1, 0.75]), rtol=0, atol=0.02)
    assert not open_images(coco, labels=False).labelled


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": [], "annotations": []}, "lists no images"),
        ({"images": [{"id": 1, "file_name": "none.png"}], "annotations": []}, "none.png, is neither beside it"),
        ({"annotations": [{"image_id": 99, "category_id": 2, "bbox": [0, 0, 1, 1]}]}, "names image 99"),
        ({"annotations": [{"image_id": 10, "category_id": 5, "bbox": [0, 0, 1, 1]}]}, "names category 5"),
        ({"annotations": [{"image_id": 10, "category_id": 2, "bbox": [0, 0]}]}, "no COCO json of boxes"),
        ({"categories": 3}, "no COCO json of boxes"),
        ({"annotations": None}, "no COCO json of boxes"),
    ],
)
def test_a_json_of_another_kind_is_refused(coco: Path, change: dict[str, object], words: str) -> None:
    coco.write_text(json.dumps({**json.loads(coco.read_text()), **change}))
    with pytest.raises(DataError, match=words):
        open_images(coco)


class Detector(nn.Module):
    """What Hugging Face's detectors return, with their configuration."""

    def __init__(self, columns: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(num_labels=7)
        self.patch, self.logits, self.boxes = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, columns), nn.Linear(8, 4)

    def forward(self, x_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        x_BQC = self.patch(x_BCHW).flatten(2).mT
        return {"logits": 4 * self.logits(x_BQC), "pred_boxes": self.boxes(x_BQC).sigmoid()}


def test_a_detector_is_quantized_and_compared_by_its_boxes(draws: torch.Generator) -> None:
    x_NCHW = torch.randn(8, 3, 16, 16, generator=draws)
    made = vitq.quantize(Detector(), x_NCHW, recipe="rtn", bits="w8a8", limit=8, progress=False)
    assert made.config.task == "boxes" and made.metrics.agreement is not None and made.metrics.agreement > 80
    assert made.metrics.scores is not None and made.metrics.scores["iou_agreement"] > 90
    assert made.metrics.outputs is not None and set(made.metrics.outputs) == {"logits", "pred_boxes"}
    with pytest.raises(DataError, match="labels are classes, and task 'boxes' takes of each image boxes"):
        made.evaluate((x_NCHW, torch.arange(8) % 2))
    with pytest.raises(DataError, match="category 9, and the model has only 7 classes, from 0; give boxes of its own"):
        made.evaluate((x_NCHW, [{"boxes": [[0, 0, 8, 8]], "labels": [9]}] * 8))


@pytest.mark.parametrize("moved", [0.0, 0.1])
def test_a_captured_detector_may_give_its_queries_in_another_order(
    moved: float, draws: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A detector that sorts queries by score turns two of them around where scores differ in their last digit."""

    class Turned(nn.Module):
        def forward(self, x_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
            return {name: y.flip(1) + moved * (name == "pred_boxes") for name, y in Detector()(x_BCHW).items()}

    x_NCHW = torch.randn(2, 3, 16, 16, generator=draws)
    loaded = settle(load_model(Detector()), x_NCHW, lambda *_: None)
    monkeypatch.setattr("vitq.run.inputs.capture", lambda *_: Turned())
    with pytest.raises(GraphError, match="does not compute") if moved else nullcontext():
        capture_checked(loaded, x_NCHW, torch.device("cpu"))


def test_mean_precision_is_that_of_pycocotools() -> None:
    pytest.importorskip("pycocotools")
    boxes = torch.tensor([[[0.25, 0.25, 0.5, 0.5], [0.7, 0.7, 0.2, 0.2]]]).expand(2, -1, -1)
    logits = torch.full((2, 2, 4), -9.0)
    logits[:, 0, 1], logits[0, 1, 2], logits[1, 1, 3] = 9, 9, 9  # the last class is no object
    labels = torch.full((2, 2, 8), -1.0)
    labels[:, 0] = torch.tensor([1, 0, 0, 0, 0.5, 0.5, 0, 2])
    labels[0, 1] = torch.tensor([2, 1, 0.6, 0.6, 0.8, 0.8, 0, 2])
    task, summary = Boxes("logits"), {"logits": logits, "pred_boxes": boxes}
    assert task.score(summary, labels) == {"map": pytest.approx(100), "map50": pytest.approx(100)}
    labels[0, 1, 2:4] = 0.7  # a quarter of the box that was found
    assert task.score(summary, labels)["map"] == pytest.approx(50)
    labels[..., 7] = 90  # of a file whose other images have categories beyond the model's classes: by place
    labels[:, 0, :2], labels[0, 1, :2] = torch.tensor([2.0, 1.0]), torch.tensor([3.0, 2.0])
    assert task.score(summary, labels)["map"] == pytest.approx(50)
