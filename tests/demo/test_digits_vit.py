from importlib.resources import files

import pytest
import torch

from vitq.data import draw_calibration, load_labelled, open_images
from vitq.demo import digits, digits_images, digits_model
from vitq.demo.digits_vit import CHECKPOINT, DIGITS_PREPROCESSING
from vitq.errors import DataError


def test_the_checkpoint_is_small_and_recognises_unseen_digits() -> None:
    loaded = digits_model()
    x_NCHW, labels_N = digits_images("validation")

    with torch.inference_mode():
        accuracy = float((loaded.module(x_NCHW).argmax(1) == labels_N).float().mean())

    assert accuracy >= 0.97
    assert loaded.num_classes == 10
    assert (files("vitq.demo") / CHECKPOINT).read_bytes().__len__() < 2_000_000


def test_calibration_and_validation_images_are_fixed_and_apart() -> None:
    calibration_NCHW, _ = digits_images("calibration")
    validation_NCHW, labels_N = digits_images("validation")

    assert (len(calibration_NCHW), len(validation_NCHW)) == (1000, 797)
    assert calibration_NCHW.shape[1:] == DIGITS_PREPROCESSING.input_size
    assert labels_N[:8].tolist() == [2, 1, 9, 2, 3, 1, 7, 7]
    both_NF = torch.cat([calibration_NCHW, validation_NCHW]).flatten(1)
    assert len(both_NF.unique(dim=0)) == 1797


def test_demo_images_pass_through_the_usual_doors() -> None:
    loaded, calibration_NCHW, validation = digits()

    drawn = draw_calibration(open_images(calibration_NCHW), loaded.preprocessing, limit=64)
    x_BCHW, labels_B = next(load_labelled(open_images(validation), loaded.preprocessing, num_classes=10))

    assert drawn.shape == (64, 3, 24, 24)
    assert loaded.module(x_BCHW).shape == (len(labels_B), 10)


def test_another_split_is_an_error() -> None:
    with pytest.raises(DataError, match="no split 'test'"):
        digits_images("test")  # type: ignore[arg-type]
