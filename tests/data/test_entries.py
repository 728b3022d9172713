"""What people have: loaders, data sets, tuples, mappings, arrays, generators; one rule finds the image."""

import io
from collections import UserDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from vitq.data import draw_calibration, open_images
from vitq.errors import DataError
from vitq.models import Preprocessing

MakePicture = Callable[[int], Image.Image]

X = torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(0))
MASKS = torch.ones(10, 8, 8)
FREE = Preprocessing(assumed=True)


class Rows(Dataset[Any]):
    """A data set of rows, without ``__iter__``, that counts what is read."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        return self.rows[index]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(X)

    def __len__(self) -> int:
        return len(X)


FORMS: dict[str, Callable[[], Any]] = {
    "tensor": lambda: X,
    "float array": X.numpy,
    "double array": lambda: X.numpy().astype(">f8"),
    "pair with masks": lambda: (X, MASKS[:, None]),
    "pair with float labels": lambda: (X, torch.rand(10)),
    "pair with words": lambda: (X, ["cat"] * 10),
    "three": lambda: (X, torch.arange(10), torch.rand(10, 4)),
    "list of tensors": lambda: list(X),
    "list of arrays": lambda: list(X.numpy()),
    "list of (x,)": lambda: [(x,) for x in X],
    "list of (x, float)": lambda: [(x, 0.5) for x in X],
    "list of (x, mask)": lambda: list(zip(X, MASKS, strict=True)),
    "list of (x, word, id)": lambda: [(x, "cat", i) for i, x in enumerate(X)],
    "nested": lambda: [((x, "meta"), 3) for x in X],
    "batches": lambda: [(X[:4], MASKS[:4]), [X[4:], MASKS[4:]]],
    "list of batches of entries": lambda: [[(x, 0) for x in X]],
    "TensorDataset(x)": lambda: TensorDataset(X),
    "TensorDataset(x, masks)": lambda: TensorDataset(X, MASKS),
    "DataLoader(x)": lambda: DataLoader(TensorDataset(X), 4),
    "DataLoader(x, y)": lambda: DataLoader(TensorDataset(X, torch.rand(10)), 4),
    "DataLoader(x, masks)": lambda: DataLoader(TensorDataset(X, MASKS), 4),
    "DataLoader that shuffles": lambda: DataLoader(TensorDataset(X), 4, shuffle=True),
    "DataLoader of lists": lambda: DataLoader(TensorDataset(X), 4, collate_fn=lambda rows: rows),
    "DataLoader of a stream": lambda: DataLoader(Stream(), 4),
    "IterableDataset": Stream,
    "pixel_values": lambda: Rows([{"pixel_values": x, "labels": {"boxes": []}} for x in X]),
    "image": lambda: Rows([{"image": x, "label": "cat"} for x in X]),
    "img": lambda: [{"img": x} for x in X],
    "mapping of a batch": lambda: {"pixel_values": X, "labels": MASKS},
    "UserDict": lambda: [UserDict(pixel_values=X)],
    "rows of a batch of one": lambda: Rows([x[None] for x in X]),
    "rows of batches": lambda: Rows([X[:5], X[5:]]),
    "generator": lambda: (x for x in X),
    "generator of batches": lambda: (X[i : i + 3] for i in range(0, 10, 3)),
    "half": lambda: X.half().float(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_images_and_the_same_draw(form: str) -> None:
    expected = draw_calibration(open_images(X), FREE, limit=10, seed=3)

    source = open_images(FORMS[form](), labels=False, limit=10)

    assert source.shape == (3, 8, 8)
    assert torch.allclose(
        draw_calibration(source, FREE, limit=10, seed=3), expected, atol=0 if form != "half" else 0.01
    )


PICTURES: dict[str, Callable[[list[Image.Image]], Any]] = {
    "list": lambda pictures: pictures,
    "list of lists": lambda pictures: [pictures[:2], pictures[2:]],
    "arrays": lambda pictures: [np.asarray(picture) for picture in pictures],
    "one array": lambda pictures: np.stack([np.asarray(picture) for picture in pictures]),
    "array and labels": lambda pictures: (np.stack([np.asarray(picture) for picture in pictures]), [0, 1, 2]),
    "bytes": lambda pictures: [_png(picture) for picture in pictures],
    "undecoded rows": lambda pictures: [{"image": {"bytes": _png(picture), "path": None}} for picture in pictures],
    "batched rows": lambda pictures: [{"image": pictures, "label": [0, 1, 2]}],
    "webdataset": lambda pictures: [{"__key__": "0", "jpg": picture, "cls": 1} for picture in pictures],
}


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("form", PICTURES)
def test_every_form_of_pictures(form: str, make_picture: MakePicture, preprocessing: Preprocessing) -> None:
    pictures = [make_picture(seed) for seed in range(3)]
    expected = draw_calibration(open_images(pictures), preprocessing, limit=3)

    source = open_images(PICTURES[form](pictures), labels=False)

    assert torch.equal(draw_calibration(source, preprocessing, limit=3), expected) and source.shape is None


def test_labels_are_found_where_they_are_wanted() -> None:
    for source in (
        [{"pixel_values": X[:2], "labels": torch.tensor([4, 5])}],
        [(X[0], 4, "id"), (X[1], torch.tensor(5), "id")],
        [{"img": X[0], "target": 4}, {"img": X[1], "fine_label": 5}],
        TensorDataset(X[:2], torch.tensor([4, 5])),
        DataLoader(TensorDataset(X[:2], torch.tensor([[4.0], [5.0]])), 2),
        {"x": X[:2], "y": [4, 5]},
    ):
        assert [item.label for item in open_images(source).items] == [4, 5]


def test_a_generator_is_read_only_until_there_are_enough() -> None:
    given: list[int] = []

    def endless() -> Iterator[torch.Tensor]:
        while True:
            given.append(1)
            yield torch.randn(4, 3, 8, 8)

    source = open_images(endless(), labels=False, limit=16)

    assert len(source) == 17 and len(given) == 5
    assert draw_calibration(source, FREE, limit=16).shape[0] == 16


def test_a_data_set_is_read_where_it_is_drawn() -> None:
    rows = Rows([x for x in torch.randn(1000, 3, 8, 8)])
    source = open_images(DataLoader(rows, 8), labels=False, limit=4)

    drawn = draw_calibration(source, FREE, limit=4)

    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0)).tolist()
    assert torch.equal(drawn, torch.stack([rows.rows[index] for index in order[:4]]))
    assert len(rows.read) < 100 and set(rows.read) <= {0, *order[:99]}


def test_a_row_that_cannot_be_read_is_skipped_and_named(warned: Any) -> None:
    class Broken(Rows):
        def __getitem__(self, index: int) -> Any:
            if index == 7:
                raise KeyError("gone")
            return super().__getitem__(index)

    x_NCHW = draw_calibration(open_images(Broken(list(X)), labels=False), FREE, limit=10, warn=warned)

    assert len(x_NCHW) == 9
    assert "image 7 cannot be read: KeyError: 'gone'" in dict(warned)["unusable-images"]


def test_what_another_raises_is_named_by_its_number() -> None:
    def fails() -> Iterator[torch.Tensor]:
        yield X[0]
        raise RuntimeError("worker died")

    with pytest.raises(DataError, match="entry 1 of the images cannot be read: RuntimeError: worker died"):
        open_images(fails())


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ([np.zeros((9, 9, 5), np.uint8)], r"image 0 is a ndarray uint8 \(9, 9, 5\)"),
        ([np.zeros((9, 9, 3), np.int64)], "image 0 is a ndarray int64"),
        ([np.zeros((9, 9, 3))], r"looks like \(H, W, C\)"),
        (np.zeros((2, 9, 9, 3)), r"looks like \(H, W, C\)"),
        (torch.zeros(2, 9, 9, 3), r"looks like \(H, W, C\)"),
        (np.zeros((9, 9)), "images is a ndarray float64"),
        ([()], "image 0: an entry is empty"),
        ([X[0], {"mask": 1}], "image 1: an entry has the keys mask; expected 'image'"),
        ({"train": [], "test": []}, "a mapping of train, test; choose one"),
        ([{"image": [X[0], X[1]], "label": [1]}], "batch of 2 images has labels that are not 2"),
        (Image.new("RGB", (9, 9)), "put it into a list"),
        ([None], "image 0 is a NoneType"),
        (None, "cannot be read from a NoneType"),
        (torch.nn.Sequential(torch.nn.Linear(2, 2)), "image 0 is a Linear"),
    ],
)
def test_what_holds_no_image_is_named(source: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        open_images(source)


def test_arrays_of_one_channel_are_gray_pictures(preprocessing: Preprocessing) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (4, 20, 20, 1), dtype=np.uint8)

    drawn = draw_calibration(open_images(list(gray)), preprocessing, limit=4)

    assert torch.equal(drawn, draw_calibration(open_images(gray[..., 0]), preprocessing, limit=4))
