"""The model and the images of the offline demo: a small vision transformer on scikit-learn's handwritten
digits.
"""

from dataclasses import replace
from importlib.resources import as_file, files
from typing import Literal, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vitq.errors import DataError
from vitq.models import LoadedModel, Preprocessing, load_model
from vitq.models.torchvision_shim import ensure_torchvision

CHECKPOINT = "digits_vit.safetensors"
CALIBRATION_IMAGES = 1000
SPLIT_SEED = 0

DIGITS_PREPROCESSING = Preprocessing(
    input_size=(3, 24, 24),
    crop_pct=1.0,
    crop_mode="squash",
    interpolation="bicubic",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)

Split = Literal["calibration", "validation"]


def digits() -> tuple[LoadedModel, Tensor, tuple[Tensor, Tensor]]:
    """Return the trained model, its calibration images (N, 3, 24, 24), and validation images with labels."""
    calibration_NCHW, _ = digits_images("calibration")
    return digits_model(), calibration_NCHW, digits_images("validation")


def digits_module() -> nn.Module:
    """Return the untrained architecture: timm's ViT, 8 blocks of width 64, 36 patches of 4 x 4 pixels."""
    ensure_torchvision()
    import timm

    module = timm.create_model(
        "vit_tiny_patch16_224", img_size=24, patch_size=4, embed_dim=64, depth=8, num_heads=4, num_classes=10
    )
    return cast(nn.Module, module)


def digits_model() -> LoadedModel:
    """Load the checkpoint that ``scripts/train_digits_vit.py`` wrote (stored in float16, used in float32)."""
    with as_file(files("vitq.demo") / CHECKPOINT) as path:
        loaded = load_model(digits_module(), weights=path, num_classes=10, preprocessing=DIGITS_PREPROCESSING)
    return replace(loaded, name="digits-vit", source=loaded.source | {"kind": "demo", "name": "digits-vit"})


def digits_images(split: Split) -> tuple[Tensor, Tensor]:
    """Return preprocessed x (N, 3, 24, 24) and labels (N,): 1,000 calibration (also training) or 797
    validation images.
    """
    pictures, labels = digits_pictures(split)
    transform = DIGITS_PREPROCESSING.transform()
    return torch.stack([transform(picture) for picture in pictures]), torch.from_numpy(labels)


def digits_pictures(split: Split) -> tuple[list[Image.Image], np.ndarray]:
    """Return the 8 x 8 gray pictures of a split and their digits; raise DataError for another split."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.RandomState(SPLIT_SEED).permutation(len(digits.target))
    chosen = {"calibration": order[:CALIBRATION_IMAGES], "validation": order[CALIBRATION_IMAGES:]}.get(split)
    if chosen is None:
        raise DataError(f"digits have no split '{split}'; choose calibration or validation")
    gray_NHW = np.rint(digits.images[chosen] * (255 / 16)).astype(np.uint8)
    return [Image.fromarray(gray_HW).convert("RGB") for gray_HW in gray_NHW], digits.target[chosen].astype(np.int64)
