"""Images that are in memory or in one array file: tensors, arrays, pictures, batches."""

import zipfile
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from vitq.data.decode import open_picture
from vitq.data.sources import ImageItem, ImageSource, Pixels
from vitq.errors import DataError


def open_tensor(images_NCHW: Tensor, labels_N: Tensor | None) -> ImageSource:
    """Take images that are already preprocessed; raise DataError for another rank, integers, or another
    number of labels.
    """
    return ImageSource("tensor", tuple(_tensor_items(images_NCHW, labels_N, first=0)))


def open_npz(path: Path) -> ImageSource:
    """Read ``images`` (N, H, W, C) or (N, H, W), uint8, and optional ``labels`` (N,); raise DataError for
    anything else.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "images" not in arrays:
                raise DataError(f"'{path}' has no array 'images' but: {', '.join(arrays.files)}")
            images, labels = arrays["images"], arrays.get("labels")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"'{path}' is not a readable .npz without pickled objects: {error}") from error
    gray, coloured = images.ndim == 3, images.ndim == 4 and images.shape[-1] in (1, 3, 4)
    if images.dtype != np.uint8 or not (gray or coloured):
        raise DataError(
            f"'{path}': images are {images.dtype} {images.shape}; expected uint8 (N, H, W), or (N, H, W, C) "
            "with 1, 3 or 4 channels"
        )
    pictures_NHWC = images[..., 0] if images.shape[-1] == 1 and coloured else images
    checked = _labels(labels, len(images), str(path))
    items = (
        ImageItem(f"image {index}", partial(Image.fromarray, picture), label)
        for index, (picture, label) in enumerate(zip(pictures_NHWC, checked, strict=True))
    )
    return ImageSource("npz", tuple(items))


def open_iterable(entries: Iterable[Any]) -> ImageSource:
    """Take pictures, paths, arrays (H, W, C), preprocessed tensors or batches, alone or with labels; all are
    kept in memory.
    """
    items: list[ImageItem] = []
    for entry in entries:
        pixels, label = _split(entry)
        if isinstance(pixels, Tensor) and pixels.ndim == 4:
            items.extend(_tensor_items(pixels, label, first=len(items)))
        else:
            items.append(_single_item(pixels, label, len(items)))
    return ImageSource("iterable", tuple(items))


def _split(entry: Any) -> tuple[Any, Any]:
    """An entry to its pixels and label: a pair, a row of a Hugging Face data set, or pixels alone."""
    if isinstance(entry, Mapping):
        if "image" not in entry:
            raise DataError(f"an image entry has the keys {', '.join(map(str, entry))}; expected 'image' (and 'label')")
        return entry["image"], entry.get("label")
    if isinstance(entry, tuple | list) and len(entry) == 2:
        return entry[0], entry[1]
    return entry, None


def _single_item(pixels: Any, label: Any, index: int) -> ImageItem:
    name = f"image {index}"
    (checked,) = _labels(None if label is None else [label], 1, name)
    match pixels:
        case str() | Path():
            return ImageItem(str(pixels), partial(open_picture, Path(pixels)), checked)
        case Image.Image():
            return ImageItem(name, partial(_same, pixels), checked)
        case Tensor() if pixels.ndim == 3 and pixels.is_floating_point():
            return ImageItem(name, partial(_same, pixels.detach().float().cpu()), checked)
        case np.ndarray() if pixels.dtype == np.uint8 and pixels.ndim in (2, 3):
            return ImageItem(name, partial(Image.fromarray, pixels), checked)
        case _:
            shape = f" {pixels.dtype} {tuple(pixels.shape)}" if hasattr(pixels, "shape") else ""
            raise DataError(
                f"{name} is a {type(pixels).__name__}{shape}; expected a picture, a path, "
                "a uint8 array (H, W, C) or a preprocessed float tensor (C, H, W)"
            )


def _tensor_items(images_NCHW: Tensor, labels: Any, first: int) -> Iterator[ImageItem]:
    if images_NCHW.ndim != 4 or not images_NCHW.is_floating_point():
        raise DataError(
            f"a tensor of images must be preprocessed float (N, C, H, W), not {images_NCHW.dtype} "
            f"{tuple(images_NCHW.shape)}; raw pixels go in as pictures or .npz"
        )
    x_NCHW = images_NCHW.detach().float().cpu()
    for index, (x_CHW, label) in enumerate(zip(x_NCHW, _labels(labels, len(x_NCHW), "tensor"), strict=True)):
        yield ImageItem(f"image {first + index}", partial(_same, x_CHW), label)


def _labels(labels: Any, count: int, where: str) -> list[int | None]:
    """Class indices as plain integers, or a None for each image."""
    if labels is None:
        return [None] * count
    values = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if values.shape != (count,) or values.dtype.kind not in "iu" or (count and values.min() < 0):
        raise DataError(
            f"{where}: labels must be {count} class indices (integers from 0), not {values.dtype} {values.shape}"
        )
    return [int(value) for value in values]


def _same(pixels: Pixels) -> Pixels:
    return pixels
