"""Images in memory: tensors, arrays, pictures, paths and bytes, alone or in batches, become items."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitq.data.decode import decode_picture, load_picture, open_picture
from vitq.data.entries import is_encoded
from vitq.data.items import ImageItem, ImageSource, Pixels
from vitq.data.labels import labels_of
from vitq.data.names import shown
from vitq.data.targets import Target
from vitq.errors import DataError

_CHANNELS = (1, 2, 3, 4)


def open_batch(images: Tensor | np.ndarray, labels: Any) -> ImageSource:
    """Take a batch of images, float (N, C, H, W) and preprocessed or uint8 arrays (N, H, W, C), and labels or None;
    raise DataError for another rank or type, or another number of labels.
    """
    layout = "tensor" if isinstance(images, Tensor) else "array"
    if images.ndim != 4:
        raise DataError(_unusable("images", images))
    return ImageSource(layout, tuple(items_of(images, labels, 0)))


def items_of(pixels: Any, label: Any, first: int) -> Iterator[ImageItem]:
    """Yield the items of one image or one batch, named from number ``first`` on; labels None for none."""
    name = f"image {first}"
    if isinstance(pixels, Tensor | np.ndarray) and pixels.ndim == 4:
        where = f"images from number {first} on" if first else "images"
        rows = _checked(pixels, where).float().cpu() if isinstance(pixels, Tensor) else pixels
        labels = labels_of(label, len(rows), where)
        for index, (row, one) in enumerate(zip(rows, labels, strict=True)):
            yield _item(f"image {first + index}", row, one)
        return
    (checked,) = labels_of(label, 1, name)
    yield _item(name, pixels, checked)


def _item(name: str, pixels: Any, label: int | Target | None) -> ImageItem:
    if label is not None and not isinstance(label, int):
        return replace(_item(name, pixels, None), target=label)
    if is_encoded(pixels):
        pixels = pixels["bytes"] if pixels.get("bytes") else pixels.get("path")
    match pixels:
        case str() | os.PathLike():
            path = Path(os.fsdecode(pixels))
            return ImageItem(str(pixels), partial(open_picture, path), label, path=path)
        case bytes():
            return ImageItem(name, partial(decode_picture, pixels, name), label)
        case Image.Image():
            return ImageItem(name, partial(load_picture, pixels, name), label)
        case Tensor() if pixels.ndim == 3:
            x_CHW = _checked(pixels, name).float().cpu()
            return ImageItem(name, partial(_same, x_CHW), label, tuple(x_CHW.shape))
        case np.ndarray():
            shape = tuple(pixels.shape) if pixels.dtype.kind == "f" else None
            return ImageItem(name, _as_pixels(pixels, name), label, shape)
        case _:
            raise DataError(_unusable(name, pixels))


def _as_pixels(array: np.ndarray, name: str) -> Callable[[], Pixels]:
    """How to read an array: uint8 (H, W) or (H, W, C) is a picture, float (C, H, W) is already preprocessed."""
    if array.dtype == np.uint8 and (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in _CHANNELS)):
        return partial(_picture, array, name)
    if array.dtype.kind == "f" and array.ndim == 3:
        _refuse_channels_last(array.shape, name)
        return partial(_tensor, array)
    raise DataError(_unusable(name, array))


def _checked(x: Tensor, name: str) -> Tensor:
    plain = x.layout is torch.strided and not x.is_nested and not x.is_meta and x.is_floating_point()
    if not plain:
        raise DataError(_unusable(name, x))
    _refuse_channels_last(x.shape, name)
    return x.detach()


def _refuse_channels_last(shape: tuple[int, ...], name: str) -> None:
    channels, height, width = shape[-3:]
    if width in (1, 3, 4) and min(channels, height) > 4:
        raise DataError(
            f"{name}: floating point of shape {tuple(shape)} looks like (H, W, C); give preprocessed (C, H, W), "
            "or uint8 (H, W, C)"
        )


def _picture(array: np.ndarray, name: str) -> Image.Image:
    try:
        return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array)
    except Exception as error:
        raise DataError(f"{name}: an array of {array.shape} is no picture ({error})") from error


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))


def _unusable(name: str, pixels: Any) -> str:
    shape = ""
    if isinstance(pixels, Tensor) and (pixels.is_meta or pixels.is_nested or pixels.layout is not torch.strided):
        shape = " that is meta, nested or sparse"
    elif isinstance(pixels, Tensor | np.ndarray):
        shape = f" {pixels.dtype} {tuple(pixels.shape)}"
    return (
        f"{name} is a {shown(type(pixels).__name__)}{shape}; expected a picture, a path, a uint8 array (H, W, C) with "
        "1, 3 or 4 channels, or preprocessed float (C, H, W), in batches (N, C, H, W)"
    )


def _same(pixels: Pixels) -> Pixels:
    return pixels
