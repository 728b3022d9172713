"""Where images come from: one list of items that are read when needed, whatever the source was."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from vitq.data.coco import open_coco
from vitq.data.entries import has_image
from vitq.data.files import is_folder
from vitq.data.folders import open_files, open_folder
from vitq.data.items import ImageSource
from vitq.data.iterables import is_map_style, open_iterable
from vitq.data.labels import refuse_two_kinds, refuse_two_labels
from vitq.data.memory import open_batch
from vitq.data.names import shown
from vitq.data.noise import GENERATED
from vitq.data.npz import open_npz
from vitq.data.splits import SUFFIXES, is_split, shards_in
from vitq.errors import DataError

ImagesLike = str | Path | Tensor | np.ndarray | ImageSource | Iterable[Any]


def open_images(source: ImagesLike | Any, *, labels: bool = True, limit: int | None = None) -> ImageSource:
    """Open images of any of these kinds, without decoding them yet.

    A folder with ``labels.csv`` (``filename,label``), a folder of class folders (sorted names give the indices), of
    ``images`` and ``masks``, a flat folder, ``.parquet`` files of Hugging Face or ``.tar`` shards of webdataset (one, a
    folder, or a split by its name, ``imagenet/validation``), a COCO ``.json`` or the folder that it lies in, an
    ``.npz`` (``images`` (N, H, W, C) or (N, H, W) uint8, optional ``labels`` (N,)), a preprocessed tensor or float
    array (N, C, H, W), a pair of such a batch and labels (N,), or any data set, loader or iterable of entries, whose
    image ``vitq.data.entries.rows_of`` finds. Without ``labels`` they are ignored whatever they are, and what can be
    read only from its start is read until there are ``limit`` images. Raises DataError when there is nothing usable.
    """
    opened = source if isinstance(source, ImageSource) else _open(source, labels, limit)
    if not opened.items:
        where = f"'{shown(source)}' ({opened.layout})" if isinstance(source, str | Path) else f"the {opened.layout}"
        once = "; a generator gives its images only once" if isinstance(source, Iterator) else ""
        raise DataError(f"no images found in {where}{once}")
    if labels:
        refuse_two_labels(opened.items)
        refuse_two_kinds(opened.items)
        opened = opened.padded()
    return opened


def _open(source: Any, labels: bool, limit: int | None) -> ImageSource:
    match source:
        case str() | Path():
            return _open_path(source, labels)
        case Tensor():
            return open_batch(source, None)
        case np.ndarray() if source.ndim != 3 or source.dtype != np.uint8:  # uint8 (N, H, W) is N gray pictures
            return open_batch(source, None)
        case (Tensor() | np.ndarray() as images, given, *_) if images.ndim == 4 and _belongs(given, images):
            return open_batch(images, given if labels else None)
        case Mapping() if not has_image(source):
            keys = shown(", ".join(map(str, source)))
            raise DataError(f"images are a mapping of {keys}; choose one of them")
        case Mapping():
            return open_iterable([source], labels, limit)
        case Image.Image() | bytes():
            raise DataError(f"images cannot be read from one {type(source).__name__}; put it into a list")
        case _ if isinstance(source, Iterable) or is_map_style(source):
            return open_iterable(source, labels, limit)
        case _:
            raise DataError(
                f"images cannot be read from a {shown(type(source).__name__)}; pass a folder, .npz, tensor, data set "
                "or list"
            )


def _open_path(source: str | Path, labels: bool) -> ImageSource:
    if source == "":
        raise DataError("the path of the images is empty; '.' is the folder at hand")
    path = Path(source)
    if source in GENERATED:
        raise DataError(f"'{source}' stands for calibration images alone, where none are at hand; name a folder here")
    if files := _split(path):
        return open_files(files, labels)
    if is_folder(path):
        return open_folder(path, labels)
    if path.suffix.lower() == ".npz":
        return open_npz(path, labels)
    if path.suffix.lower() == ".json":
        return open_coco(path, labels)
    raise DataError(f"'{shown(path)}' is neither a folder of images nor an .npz, .parquet, .tar or COCO .json file")


def _split(path: Path) -> list[Path]:
    """Return the files of a split that is named by its folder's path, or one such file."""
    if path.suffix.lower() in SUFFIXES and path.is_file():
        return [path]
    return shards_in(path) if is_split(path) and not path.exists() else []


def _belongs(other: Any, images: Tensor | np.ndarray) -> bool:
    """Whether ``other`` says something of a batch of images, as labels and masks do, and is not one more batch."""
    if isinstance(other, Tensor | np.ndarray):
        return other.ndim != 4 or other.shape[1] != images.shape[1]
    return other is None or (isinstance(other, list | tuple | Mapping) and len(other) == len(images))
