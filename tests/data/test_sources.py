from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitq.data import open_images
from vitq.errors import DataError

MakePicture = Callable[[int], Image.Image]


def _labels(source: Any) -> list[int | None]:
    return [item.label for item in open_images(source).items]


def test_flat_folder(flat_folder: Path) -> None:
    source = open_images(flat_folder)

    assert len(source) == 20 and not source.labelled
    assert [item.name for item in source.items[:2]] == ["00.png", "01.png"]
    assert source.describe() == "20 images (flat folder), without labels"


def test_flat_folder_says_that_its_subfolders_are_left_out(flat_folder: Path) -> None:
    (flat_folder / "more").mkdir()

    assert [name for name, _ in open_images(flat_folder).notes] == ["subfolders-ignored"]


def test_class_folders(tmp_path: Path, make_picture: MakePicture) -> None:
    for seed, name in enumerate(["wolf", "cat", "cat", "emu"]):
        (tmp_path / name / "deep").mkdir(parents=True, exist_ok=True)
        make_picture(seed).save(tmp_path / name / "deep" / f"{seed}.PNG")

    source = open_images(str(tmp_path))

    assert source.class_names == ("cat", "emu", "wolf")
    assert [item.label for item in source.items] == [0, 0, 1, 2]
    assert source.labelled and source.notes == ()


def test_numbered_class_folders_are_warned_of_when_text_order_differs(
    tmp_path: Path, make_picture: MakePicture
) -> None:
    for label in (0, 2, 10):
        (tmp_path / str(label)).mkdir()
        make_picture(label).save(tmp_path / str(label) / "a.png")

    assert [name for name, _ in open_images(tmp_path).notes] == ["class-order"]


def test_a_folder_of_splits_is_not_mistaken_for_classes(tmp_path: Path, make_picture: MakePicture) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        make_picture(0).save(tmp_path / split / "a.png")

    with pytest.raises(DataError, match="splits train, val"):
        open_images(tmp_path)


def test_labels_csv(flat_folder: Path) -> None:
    (flat_folder / "labels.csv").write_text("\ufefffilename, label\n03.png, 7\n00.png,2\n", encoding="utf-8")

    source = open_images(flat_folder)

    assert [(item.name, item.label) for item in source.items] == [("03.png", 7), ("00.png", 2)]
    assert isinstance(source.items[0].read(), Image.Image)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("name,class\n00.png,1\n", "filename,label"),
        ("filename,label\n00.png,cat\n", "line 2.*00.png,cat"),
        ("filename,label\n00.png\n", "line 2"),
        ("filename,label\n00.png,-1\n", "line 2"),
        ("filename,label\n", "no images"),
        ("", "filename,label"),
    ],
)
def test_malformed_labels_csv_is_named(flat_folder: Path, table: str, said: str) -> None:
    (flat_folder / "labels.csv").write_text(table)

    with pytest.raises(DataError, match=said):
        open_images(flat_folder)


@pytest.mark.parametrize("shape", [(5, 12, 10), (5, 12, 10, 1), (5, 12, 10, 3), (5, 12, 10, 4)])
def test_npz(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(5))

    source = open_images(tmp_path / "images.npz")
    first = source.items[0].read()

    assert [item.label for item in source.items] == [0, 1, 2, 3, 4]
    assert isinstance(first, Image.Image) and first.size == (10, 12)
    assert np.array_equal(np.asarray(first).reshape(shape[1:]), images[0])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"pixels": np.zeros((2, 9, 9), np.uint8)}, "pixels"),
        ({"images": np.zeros((2, 9, 9))}, "float64"),
        ({"images": np.zeros((2, 3, 9, 9), np.uint8)}, "channels"),
        ({"images": np.zeros((2, 9, 9), np.uint8), "labels": np.zeros(3, int)}, "2 class indices"),
        ({"images": np.zeros((2, 9, 9), np.uint8), "labels": np.array([0, -1])}, "from 0"),
        ({"images": np.array([{}, {}], dtype=object)}, "pickle"),
        ({"images": np.zeros((0, 9, 9), np.uint8)}, "no images"),
    ],
)
def test_unusable_npz_is_named(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    np.savez(tmp_path / "images.npz", **arrays)

    with pytest.raises(DataError, match=said):
        open_images(tmp_path / "images.npz")


def test_damaged_npz_is_named(tmp_path: Path) -> None:
    (tmp_path / "images.npz").write_bytes(b"PK nothing")

    with pytest.raises(DataError, match=r"images\.npz"):
        open_images(tmp_path / "images.npz")


def test_tensors_alone_and_with_labels() -> None:
    x_NCHW = torch.randn(3, 3, 8, 8)

    assert _labels(x_NCHW) == [None, None, None]
    assert _labels((x_NCHW, torch.tensor([2, 0, 1]))) == [2, 0, 1]
    assert torch.equal(open_images(x_NCHW.double()).items[1].read(), x_NCHW[1])  # type: ignore[arg-type]


def test_iterables_of_every_kind(flat_folder: Path, make_picture: MakePicture) -> None:
    entries = [
        make_picture(0),
        (make_picture(1), 1),
        flat_folder / "02.png",
        str(flat_folder / "03.png"),
        np.zeros((9, 9, 3), np.uint8),
        torch.zeros(3, 8, 8),
        {"image": make_picture(4), "label": 4},
        (torch.zeros(2, 3, 8, 8), torch.tensor([5, 6])),
    ]

    assert _labels(iter(entries)) == [None, 1, None, None, None, None, 4, 5, 6]
    assert not open_images(entries).labelled


def test_data_loaders_are_iterables() -> None:
    data = torch.utils.data.TensorDataset(torch.randn(5, 3, 8, 8), torch.arange(5))

    assert _labels(torch.utils.data.DataLoader(data, batch_size=2)) == [0, 1, 2, 3, 4]
    assert _labels([data[index] for index in range(5)]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (torch.zeros(3, 8, 8), "N, C, H, W"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "preprocessed float"),
        ((torch.zeros(2, 3, 8, 8), torch.zeros(3)), "2 class indices"),
        ([], "no images"),
        ([42], "image 0 is a int"),
        ([{"pixels": 1}], "expected 'image'"),
        ([(Image.new("RGB", (9, 9)), "cat")], "class indices"),
        (7, "cannot be read from a int"),
        ("nowhere", "no such folder"),
        (Path(__file__), "neither a folder"),
    ],
)
def test_unusable_sources_are_named(source: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        open_images(source)


def test_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        open_images(tmp_path)


def test_an_open_source_passes_through() -> None:
    source = open_images(torch.zeros(1, 3, 8, 8))

    assert open_images(source) is source
