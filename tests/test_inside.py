"""A part of a larger model: captured with what it receives, put back, and the whole compared."""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vitq
from vitq.errors import DataError, ModelError
from vitq.models import load_whole
from vitq.run.whole_metrics import compare_wholes


class Backbone(nn.Module):
    """Images of any size to a pyramid in an OrderedDict, with an option that the whole gives."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.fc = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 1)

    def forward(self, images: torch.Tensor, scale: float = 1.0, mask: Any = None) -> Any:
        x = self.patch(scale * images)
        return OrderedDict([("0", x + self.fc(x).relu()), ("pool", x.mean((2, 3)))])


class Detector(nn.Module):
    """Normalises, runs its backbone on half of the values, and keeps as many boxes as it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = Backbone(), nn.Linear(8, 4)

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        features = self.backbone(torch.stack(images) / 2, scale=2.0, mask=None)
        boxes = self.head(features["0"].flatten(2).mT).sigmoid()
        boxes = torch.cat((boxes[..., :2], boxes[..., :2] + boxes[..., 2:]), -1)
        kept = boxes[..., 0] > boxes[..., 0].median()  # branches on values: no graph of the whole
        return [
            {"boxes": b[k], "labels": torch.ones(int(k.sum()), dtype=torch.int64)}
            for b, k in zip(boxes, kept, strict=True)
        ]


@pytest.fixture(scope="module")
def batches() -> list[list[torch.Tensor]]:
    draws = torch.Generator().manual_seed(0)
    return [[torch.randn(3, 16, 16, generator=draws) for _ in range(4)] for _ in range(3)]


def test_a_part_is_quantized_on_what_it_receives_and_put_back(
    batches: list[list[torch.Tensor]], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    whole = Detector().eval()
    before = whole(batches[0])
    made: Any = vitq.quantize(
        whole, batches, inside="backbone", recipe="rtn", bits="w8a8", limit=8, out=tmp_path / "a", progress=False
    )
    assert isinstance(whole.backbone, Backbone)  # the model that was given is as it was
    torch.testing.assert_close(made.images_NCHW, torch.stack(batches[0] + batches[1]) / 2)
    assert made.config.source["name"] == "Detector.backbone" and made.metrics.whole["boxes"]["agreement"] > 80
    assert "whole model, boxes" in (tmp_path / "a" / "report.html").read_text()
    assert (tmp_path / "a" / "run.json").exists()

    whole.backbone = made
    after = whole(batches[0])
    assert isinstance(made(torch.stack(batches[0])), OrderedDict)
    assert compare_wholes([before], [after])["boxes"]["agreement"] > 80
    own = made.model(torch.stack(batches[0]) / 2)
    assert list(own) == ["output_0", "pool"] and torch.equal(own["pool"], made(torch.stack(batches[0]) / 2)["pool"])

    again = Detector().eval()
    again.load_state_dict({k: v for k, v in whole.state_dict().items() if k.startswith("head")}, strict=False)
    vitq.put_inside(again, "backbone", vitq.load(tmp_path / "a"))
    assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(again(batches[0]), after, strict=True))


def test_a_function_may_feed_the_whole_and_images_of_every_verb_do(batches: list[list[torch.Tensor]]) -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = Backbone()

        def forward(self, x: torch.Tensor, words: int = 0) -> torch.Tensor:
            return self.tower(x)["pool"] + words

    def feed(model: nn.Module) -> Iterator[Any]:
        for batch in batches:
            yield model(torch.stack(batch), words=3)

    options: dict[str, Any] = {"recipe": "rtn", "bits": "w8a8", "progress": False, "inside": "tower", "limit": 12}
    for images in (feed, torch.stack([x for batch in batches for x in batch])):
        made: Any = vitq.quantize(Whole(), images, **options)
        assert list(made.metrics.whole) == ["output"] and made.metrics.whole["output"]["cosine"] > 0.99
        assert len(made.images_NCHW) == 12


def test_a_whole_may_change_the_container_that_its_part_gave(batches: list[list[torch.Tensor]]) -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.tower = Backbone()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            given = self.tower(x)
            given["pool"] = tuple(given["pool"])  # as LLaVA does with the features of its tower
            total: torch.Tensor = given["0"].mean((2, 3)) + torch.stack(given["pool"])
            return total

    feed = [torch.stack(batch) for batch in batches]
    made: Any = vitq.quantize(Whole(), feed, inside="tower", recipe="rtn", bits="w8a8", progress=False)
    assert made.metrics.whole["output"]["cosine"] > 0.99
    assert {name: y.shape for name, y in made(feed[0]).items()} == {"0": (4, 8, 4, 4), "pool": (4, 8)}


def test_a_feed_that_ends_early_the_second_time_is_told(batches: list[list[torch.Tensor]]) -> None:
    torch.manual_seed(0)
    left = iter(batches)

    def feed(whole: nn.Module) -> Iterator[Any]:
        yield from map(whole, left)

    made = vitq.quantize(Detector().eval(), feed, inside="backbone", recipe="rtn", bits="w8a8", progress=False)
    assert "whole-not-compared" in dict(made.metrics.warnings) and made.metrics.whole is None


@pytest.mark.parametrize(
    ("inside", "images", "error", "words"),
    [
        ("backbne", None, ModelError, "has no part 'backbne'; did you mean 'backbone'"),
        ("head", None, ModelError, r"'head' receives 0: \(4, 16, 8\); vitq quantizes a part with one batch of images"),
        ("backbone", [3], ModelError, "Detector cannot be run on these images"),
        ("backbone", [[torch.randn(3, 16, 16)], [torch.randn(3, 8, 8)]], DataError, "several sizes, 3x16x16 and 3x8x8"),
        ("backbone", lambda model: None, ModelError, "ran without its part 'backbone'"),
    ],
)
def test_what_cannot_be_quantized_inside_is_told(
    batches: list[list[torch.Tensor]], inside: str, images: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        vitq.quantize(Detector(), batches if images is None else images, inside=inside, progress=False)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("x/" * 5000, "neither a name nor a folder"),
        ("/nowhere/at/all", "there is no folder '/nowhere/at/all'"),
        ("ARTIFACT", "a vitq artifact, which is quantized already"),
    ],
)
def test_a_whole_that_is_not_there_is_told_as_every_model_is(spec: str, words: str, small_artifact: Path) -> None:
    with pytest.raises(ModelError, match=words):
        load_whole(spec.replace("ARTIFACT", str(small_artifact)))


def test_wholes_are_compared_by_the_kind_of_what_they_give() -> None:
    old = {"ids": torch.tensor([1, 2, 3, 4]), "x": [torch.tensor([3.0, 4.0]), torch.ones(2)], "n": torch.ones(3)}
    new = {"ids": torch.tensor([1, 2, 3, 9]), "x": [torch.tensor([3.0, 4.5]), torch.ones(2)], "n": torch.ones(2)}
    assert compare_wholes([old, old], [new, new]) == {  # of another shape each time: not compared
        "ids": {"agreement": 75.0},
        "x.0": {"relative_error": pytest.approx(0.1), "cosine": pytest.approx(27 / 29.25**0.5 / 5)},
        "x.1": {"relative_error": 0.0, "cosine": pytest.approx(1)},
    }


def test_detections_are_compared_by_the_boxes_that_both_sides_have() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 3], [8, 8, 9, 9], [0, 0, 4, 4]])
    old = {"boxes": boxes, "labels": torch.tensor([1, 1, 1, 2]), "scores": torch.ones(4)}
    new = {"boxes": boxes[[1, 0, 2]], "labels": torch.tensor([1, 1, 3]), "scores": torch.ones(3)}
    assert compare_wholes([[old]], [[new]]) == {"boxes": {"agreement": pytest.approx(100 * 4 / 7)}}
