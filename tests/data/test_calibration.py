from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vitq.data import check_images, draw_calibration, load_batches, load_labelled, open_images
from vitq.errors import CalibrationError, DataError
from vitq.models import Preprocessing

MakePicture = Callable[[int], Image.Image]


def test_the_draw_follows_its_seed_and_repeats_nothing(flat_folder: Path, preprocessing: Preprocessing) -> None:
    source = open_images(flat_folder)

    first, again, other = (draw_calibration(source, preprocessing, limit=12, seed=seed) for seed in (1, 1, 2))

    assert first.shape == (12, 3, 16, 16) and first.dtype == torch.float32
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first.flatten(1).unique(dim=0)) == 12


def test_rows_are_the_evaluation_views_of_drawn_images(flat_folder: Path, preprocessing: Preprocessing) -> None:
    source = open_images(flat_folder)
    evaluate = preprocessing.transform()
    all_NCHW = torch.stack([evaluate(Image.open(path)) for path in sorted(flat_folder.glob("[0-9]*.png"))])

    drawn_NCHW = draw_calibration(source, preprocessing, limit=20)

    assert torch.equal(drawn_NCHW.flatten(1).unique(dim=0), all_NCHW.flatten(1).unique(dim=0))


def test_further_views_are_augmented_and_seeded(flat_folder: Path, preprocessing: Preprocessing) -> None:
    source = open_images(flat_folder)

    plain = draw_calibration(source, preprocessing, limit=5)
    three, again = (draw_calibration(source, preprocessing, limit=5, views=3) for _ in range(2))

    assert three.shape == (15, 3, 16, 16)
    assert torch.equal(three[[0, 1, 6, 9, 12]], plain)
    assert torch.equal(three, again)
    assert len(three.flatten(1).unique(dim=0)) == 15


@pytest.mark.parametrize("images", [7, 6])
def test_rows_held_out_at_the_end_are_of_images_that_no_row_before_shows(
    images: int, tmp_path: Path, preprocessing: Preprocessing
) -> None:
    for number in range(images):  # one red each, so a view says which image it is of
        picture = Image.linear_gradient("L").resize((20, 20))
        Image.merge("RGB", [picture.point(lambda _, red=30 * number: red), picture, picture]).save(
            tmp_path / f"{number}.png"
        )
    if images == 6:
        (tmp_path / "6.png").write_bytes(b"broken")  # fewer than are wanted

    x_NCHW = draw_calibration(open_images(tmp_path), preprocessing, limit=7, views=3, warn=lambda *_: None)
    shown = [round(float(value), 3) for value in x_NCHW[:, 0].mean((1, 2))]

    assert len(shown) == 3 * images and {shown.count(image) for image in shown} == {3}
    assert len(set(shown[:3])) == 3
    for held_out in range(3, 9, 3):
        assert not set(shown[-held_out:]) & set(shown[:-held_out])


def test_one_broken_file_is_named_and_replaced(flat_folder: Path, preprocessing: Preprocessing, warned: Any) -> None:
    (flat_folder / "07.png").write_bytes(b"broken")

    x_NCHW = draw_calibration(open_images(flat_folder), preprocessing, limit=19, warn=warned)

    assert len(x_NCHW) == 19
    if warned:  # the broken file may be the one that was not drawn
        assert warned.names == ["unusable-images"] and "07.png" in warned[0][1]

    everything = draw_calibration(open_images(flat_folder), preprocessing, limit=20, warn=warned)
    assert len(everything) == 19
    assert "07.png: not an image" in warned[-1][1]


def test_too_many_broken_files_are_an_error(flat_folder: Path, preprocessing: Preprocessing) -> None:
    for name in ("01.png", "02.png", "03.png"):
        (flat_folder / name).write_bytes(b"broken")

    with pytest.raises(DataError, match=r"too many unusable images \(2 of .*0[123]\.png"):
        draw_calibration(open_images(flat_folder), preprocessing, limit=20)


def test_nothing_usable_is_an_error(tmp_path: Path, preprocessing: Preprocessing) -> None:
    (tmp_path / "only.jpg").write_bytes(b"broken")

    with pytest.raises(DataError, match=r"no usable image: only\.jpg"):
        draw_calibration(open_images(tmp_path), preprocessing, limit=1)


def test_conversions_are_said_once(make_picture: MakePicture, preprocessing: Preprocessing, warned: Any) -> None:
    see_through = make_picture(0)
    see_through.putalpha(Image.linear_gradient("L").resize(see_through.size))

    draw_calibration(
        open_images([see_through, make_picture(1), see_through.copy()]), preprocessing, limit=3, warn=warned
    )

    assert warned.names == ["converted-images"]
    assert "composited over white: 2 images (image" in warned[0][1]


def test_few_images_are_said(flat_folder: Path, preprocessing: Preprocessing, warned: Any) -> None:
    draw_calibration(open_images(flat_folder), preprocessing, limit=32, warn=warned)

    assert warned == [("few-images", "20 calibration images, 32 were asked for; all are used")]


def test_preprocessed_tensors_pass_unchanged(preprocessing: Preprocessing, warned: Any) -> None:
    x_NCHW = torch.randn(6, 3, 16, 16)

    drawn = draw_calibration(open_images(x_NCHW), preprocessing, limit=6, views=2, warn=warned)

    assert torch.equal(drawn.flatten(1).sort(0).values, x_NCHW.flatten(1).sort(0).values)
    assert warned.names == ["no-augmentation"]


def test_tensors_must_fit_the_model_unless_its_size_is_a_guess(preprocessing: Preprocessing) -> None:
    source = open_images(torch.randn(4, 3, 8, 8))

    with pytest.raises(DataError, match="a tensor of 3x8x8, expected 3x16x16"):
        draw_calibration(source, preprocessing, limit=4)
    assert draw_calibration(source, Preprocessing(assumed=True), limit=4).shape == (4, 3, 8, 8)


def test_images_of_different_sizes_are_named() -> None:
    source = open_images([torch.randn(3, 8, 8), torch.randn(3, 8, 9)])

    with pytest.raises(DataError, match=r"image 1: a tensor of 3x8x9|image 0: a tensor of 3x8x8"):
        draw_calibration(source, Preprocessing(assumed=True), limit=2)


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"views": 0}])
def test_no_images_or_views_are_an_error(wrong: dict[str, int], preprocessing: Preprocessing) -> None:
    with pytest.raises(DataError, match="at least 1"):
        draw_calibration(open_images(torch.randn(2, 3, 16, 16)), preprocessing, **{"limit": 2, **wrong})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_is_named_by_its_number(bad: float) -> None:
    x_NCHW = torch.randn(4, 3, 8, 8)
    x_NCHW[2, 1, 3, 3] = bad

    with pytest.raises(CalibrationError, match="1 calibration images hold NaN or infinity, the first is number 2"):
        check_images(x_NCHW)


@pytest.mark.parametrize(
    ("x_NCHW", "said"),
    [
        (torch.zeros(0, 3, 8, 8), "no calibration images"),
        (torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 8, 8), "one constant colour"),
        (torch.randn(1, 3, 8, 8).expand(4, 3, 8, 8), "all calibration images are equal"),
    ],
)
def test_images_without_information_are_an_error(x_NCHW: torch.Tensor, said: str) -> None:
    with pytest.raises(CalibrationError, match=said):
        check_images(x_NCHW)


def test_a_few_constant_images_are_a_warning(warned: Any) -> None:
    x_NCHW = torch.randn(4, 3, 8, 8)
    x_NCHW[1] = 0.5

    check_images(x_NCHW, warned)

    assert warned == [("constant-images", "1 calibration images are one constant colour, the first is number 1")]


def test_labelled_batches_keep_order_and_labels(flat_folder: Path, preprocessing: Preprocessing) -> None:
    rows = "".join(f"{index:02d}.png,{index % 7}\n" for index in range(20))
    (flat_folder / "labels.csv").write_text("filename,label\n" + rows)
    source = open_images(flat_folder)

    batches = list(load_labelled(source, preprocessing, batch_size=8, num_classes=7))

    assert [len(labels_B) for _, labels_B in batches] == [8, 8, 4]
    assert torch.cat([labels_B for _, labels_B in batches]).tolist() == [index % 7 for index in range(20)]
    assert torch.equal(batches[1][0][0], preprocessing.transform()(Image.open(flat_folder / "08.png")))


def test_a_limit_takes_evenly_spaced_images(flat_folder: Path, preprocessing: Preprocessing) -> None:
    (flat_folder / "labels.csv").write_text("filename,label\n" + "".join(f"{i:02d}.png,{i}\n" for i in range(20)))

    batches = load_labelled(open_images(flat_folder), preprocessing, limit=5)

    assert torch.cat([labels_B for _, labels_B in batches]).tolist() == [0, 4, 8, 12, 16]


def test_a_label_outside_the_model_is_named_at_once(flat_folder: Path, preprocessing: Preprocessing) -> None:
    (flat_folder / "labels.csv").write_text("filename,label\n00.png,9\n01.png,10\n")

    with pytest.raises(DataError, match=r"01\.png: label 10, but the model has only 10 classes"):
        load_labelled(open_images(flat_folder), preprocessing, num_classes=10)


def test_fewer_class_folders_than_classes_are_warned_of(
    tmp_path: Path, make_picture: MakePicture, preprocessing: Preprocessing, warned: Any
) -> None:
    (tmp_path / "cat").mkdir()
    make_picture(0).save(tmp_path / "cat" / "0.png")

    load_labelled(open_images(tmp_path), preprocessing, num_classes=1000, warn=warned)

    assert warned.names == ["few-classes"]


def test_images_without_labels(flat_folder: Path, preprocessing: Preprocessing) -> None:
    source = open_images(flat_folder)

    with pytest.raises(DataError, match="no labels"):
        load_labelled(source, preprocessing)
    assert [labels_B for _, labels_B in load_batches(source, preprocessing)] == [None]


def test_broken_validation_files_are_skipped_and_named(
    flat_folder: Path, preprocessing: Preprocessing, warned: Any
) -> None:
    (flat_folder / "05.png").write_bytes(b"broken")
    (flat_folder / "labels.csv").write_text("filename,label\n" + "".join(f"{i:02d}.png,{i}\n" for i in range(20)))

    batches = list(load_labelled(open_images(flat_folder), preprocessing, warn=warned))

    assert [label for _, labels_B in batches for label in labels_B.tolist()] == [i for i in range(20) if i != 5]
    assert warned.names == ["unusable-images"]


def test_an_abandoned_walk_stops_its_threads(flat_folder: Path, preprocessing: Preprocessing) -> None:
    walk = load_batches(open_images(flat_folder), preprocessing, batch_size=1)
    next(walk)
    walk.close()  # type: ignore[attr-defined]

    with pytest.raises(StopIteration):
        next(walk)
