"""Tables and labels from outside: a class index, or a DataError that says where."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitq.data import load_batches, load_labelled, open_images
from vitq.errors import DataError
from vitq.models import Preprocessing

MakePicture = Callable[[int], Image.Image]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_of_unicode_are_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "labels.csv").write_text("filename,label\ncafé.png,7\n", encoding=encoding)

    (item,) = open_images(tmp_path).items
    assert (item.name, item.label) == ("café.png", 7)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("filename,label\na.png,1\ncafé.png,7\n".encode("latin-1"), "line 3: not UTF-8"),
        ("filename,label\na.png,1\n".encode("utf-16-le"), "first line must name"),
        (b"\xff\xfefilename", "not UTF-8|first line must name"),
        (b"filename,label\n" + b"x" * 200_000 + b",1\n", "line 2: field larger"),
        (b"filename,label\na.png," + b"9" * 5000 + b"\n", "line 2: expected filename,class index"),
        (b"filename,label\n" + b"x" * 100_000 + b",cat\n", "line 2: expected filename,class index"),
        (b"filename,label\na\0b.png,1\n", "line 2: expected filename|line contains NUL"),
        (b'filename,label\n"a.png,1\n', "line 2"),
        (b"\x89PNG\r\n\x1a\n", "line 1: not UTF-8"),
    ],
)
def test_malformed_tables_are_named_with_their_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "labels.csv").write_bytes(content)

    with pytest.raises(DataError, match=rf"labels\.csv'.*({said})") as told:
        open_images(tmp_path)
    assert len(str(told.value)) < 600


def test_calibration_does_not_look_at_labels(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("filename,label\na.png,cat\nb.png\n")

    assert [item.name for item in open_images(tmp_path, labels=False).items] == ["a.png", "b.png"]


def test_one_file_under_two_labels_is_refused(tmp_path: Path, make_picture: MakePicture) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "classes" / name).mkdir(parents=True)
    make_picture(0).save(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text("filename,label\na.png,1\n./a.png,2\n")
    make_picture(1).save(tmp_path / "classes" / "cat" / "b.png")
    os.link(tmp_path / "classes" / "cat" / "b.png", tmp_path / "classes" / "dog" / "c.png")
    listed = [(tmp_path / "a.png", 0), (str(tmp_path / "a.png"), 1)]

    for source in (tmp_path, tmp_path / "classes", listed):
        with pytest.raises(DataError, match="one file has two labels"):
            open_images(source)
        open_images(source, labels=False)
    (tmp_path / "labels.csv").write_text("filename,label\na.png,1\na.png,1\n")
    assert len(open_images(tmp_path)) == 2


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (torch.tensor([[1.0], [0.0]]), [1, 0]),
        (torch.tensor([True, False]), [1, 0]),
        (np.array([3, 4], np.uint8), [3, 4]),
        ([3, 4], [3, 4]),
        ((0, 1), [0, 1]),
    ],
)
def test_labels_of_every_whole_type_are_class_indices(labels: Any, expected: list[int]) -> None:
    assert [item.label for item in open_images((torch.zeros(2, 3, 8, 8), labels)).items] == expected


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([0.5, 1.0]),
        torch.tensor([float("nan"), 1.0]),
        torch.zeros(2, 10),
        [0, 10**30],
        [0, 2**63],
        ["a", "b"],
        [0, -1],
        [0, None],
        np.array([0, 1j]),
    ],
)
def test_other_labels_are_refused_for_validation_and_ignored_in_calibration(labels: Any) -> None:
    with pytest.raises(DataError, match=r"class indices|2 images"):
        open_images((torch.zeros(2, 3, 8, 8), labels))
    assert len(open_images((torch.zeros(2, 3, 8, 8), labels), labels=False)) == 2


def test_missing_labels_are_counted() -> None:
    source = open_images([(torch.zeros(3, 8, 8), 1), torch.zeros(3, 8, 8)])

    with pytest.raises(DataError, match=r"1 of 2 images \(list\) have no labels"):
        load_labelled(source, Preprocessing(assumed=True))


def test_a_model_of_one_output_takes_labels_0_and_1() -> None:
    x_NCHW, free = torch.randn(2, 3, 8, 8), Preprocessing(assumed=True)

    assert len(list(load_batches(open_images((x_NCHW, [0, 1])), free, num_classes=1))) == 1
    with pytest.raises(DataError, match="label 2, but the model has only 2 classes"):
        load_batches(open_images((x_NCHW, [0, 2])), free, num_classes=1)
    assert len(list(load_batches(open_images((x_NCHW, [0, 5])), free, num_classes=0))) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1e20, 1e10])
def test_validation_images_with_impossible_values_are_named(bad: float) -> None:
    x_NCHW = torch.randn(4, 3, 8, 8)
    x_NCHW[2, 0, 0, 0] = bad

    with pytest.raises(DataError, match=r"image 2 holds (NaN or infinity|values up to 1e)"):
        list(load_batches(open_images(x_NCHW), Preprocessing(assumed=True)))
