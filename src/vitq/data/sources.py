"""Where images come from: one list of items that are read when needed, whatever the source was."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from vitq.data.files import is_folder
from vitq.data.names import shown
from vitq.errors import DataError

Pixels = Image.Image | Tensor
"""A picture as stored, or a tensor (C, H, W) that is already preprocessed."""


@dataclass(frozen=True)
class ImageItem:
    """One image: its name, how to read it (may raise DataError), and its class index if known.

    ``shape`` (C, H, W) is that of an image that is already preprocessed, None for a picture. ``path`` is the file
    that it is in, if any. ``fetch`` gives the item with its pixels; it is called in the thread that walks through the
    items, since it runs another's code.
    """

    name: str
    read: Callable[[], Pixels]
    label: int | None = None
    shape: tuple[int, ...] | None = None
    path: Path | None = None
    fetch: "Callable[[], ImageItem] | None" = None

    @property
    def shown(self) -> str:
        """Its name for messages."""
        return shown(self.name)


@dataclass(frozen=True)
class ImageSource:
    """All images of a source in a fixed order; ``notes`` are (name, message) pairs to warn of."""

    layout: str
    items: tuple[ImageItem, ...]
    notes: tuple[tuple[str, str], ...] = ()
    class_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.items)

    @property
    def labelled(self) -> bool:
        """Whether every image has a class index."""
        return all(item.label is not None for item in self.items)

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) where every image is already preprocessed and they are all alike, else None."""
        shapes = {item.shape for item in self.items}
        only = shapes.pop() if len(shapes) == 1 else None
        return None if only is None else (only[0], only[1], only[2])

    def describe(self) -> str:
        """Return one line for people: number of images, layout, labels."""
        classes = f" in {len(self.class_names)} classes" if self.class_names is not None else ""
        labels = "labelled" if self.labelled else "without labels"
        return f"{len(self)} images{classes} ({self.layout}), {labels}"


ImagesLike = str | Path | Tensor | np.ndarray | ImageSource | Iterable[Any]


def open_images(source: ImagesLike | Any, *, labels: bool = True, limit: int | None = None) -> ImageSource:
    """Open images of any of these kinds, without decoding them yet.

    A folder with ``labels.csv`` (``filename,label``), a folder of class folders (sorted names give the
    indices), a flat folder, an ``.npz`` (``images`` (N, H, W, C) or (N, H, W) uint8, optional ``labels``
    (N,)), a preprocessed tensor or float array (N, C, H, W), a pair of such a batch and labels (N,), or any data set,
    loader or iterable of entries, whose image ``vitq.data.entries.rows_of`` finds. Without ``labels`` they are ignored
    whatever they are, and what can be read only from its start is read until there are ``limit`` images. Raises
    DataError when there is nothing usable.
    """
    from vitq.data.labels import refuse_two_labels

    opened = source if isinstance(source, ImageSource) else _open(source, labels, limit)
    if not opened.items:
        where = f"'{shown(source)}' ({opened.layout})" if isinstance(source, str | Path) else f"the {opened.layout}"
        once = "; a generator gives its images only once" if isinstance(source, Iterator) else ""
        raise DataError(f"no images found in {where}{once}")
    if labels:
        refuse_two_labels(opened.items)
    return opened


def _open(source: Any, labels: bool, limit: int | None) -> ImageSource:
    from vitq.data.entries import has_image
    from vitq.data.iterables import is_map_style, open_iterable
    from vitq.data.memory import open_batch

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
    from vitq.data.folders import open_folder
    from vitq.data.npz import open_npz

    if source == "":
        raise DataError("the path of the images is empty; '.' is the folder at hand")
    path = Path(source)
    if is_folder(path):
        return open_folder(path, labels)
    if path.suffix.lower() == ".npz":
        return open_npz(path, labels)
    raise DataError(f"'{shown(path)}' is neither a folder of images nor an .npz file")


def _belongs(other: Any, images: Tensor | np.ndarray) -> bool:
    """Whether ``other`` says something of a batch of images, as labels and masks do, and is not one more batch."""
    if isinstance(other, Tensor | np.ndarray):
        return other.ndim != 4 or other.shape[1] != images.shape[1]
    return other is None or (isinstance(other, list | tuple | Mapping) and len(other) == len(images))
