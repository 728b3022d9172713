"""Where images come from: one list of items that are read when needed, whatever the source was."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from vitq.errors import DataError

Pixels = Image.Image | Tensor
"""A picture as stored, or a tensor (C, H, W) that is already preprocessed."""


@dataclass(frozen=True)
class ImageItem:
    """One image: a name for messages, how to read it (may raise DataError), and its class index if known."""

    name: str
    read: Callable[[], Pixels]
    label: int | None = None


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

    def describe(self) -> str:
        """Return one line for people: number of images, layout, labels."""
        classes = f" in {len(self.class_names)} classes" if self.class_names is not None else ""
        labels = "labelled" if self.labelled else "without labels"
        return f"{len(self)} images{classes} ({self.layout}), {labels}"


ImagesLike = str | Path | Tensor | ImageSource | Iterable[Any]


def open_images(source: ImagesLike) -> ImageSource:
    """Open images of any of these kinds, without decoding them yet.

    A folder with ``labels.csv`` (``filename,label``), a folder of class folders (sorted names give the
    indices), a flat folder, an ``.npz`` (``images`` (N, H, W, C) or (N, H, W) uint8, optional ``labels``
    (N,)), a preprocessed tensor (N, C, H, W), a pair of such a tensor and labels (N,), or any iterable of
    pictures, paths, tensors, batches, or pairs of one of these with labels. Raises DataError when there is
    nothing usable.
    """
    from vitq.data.folders import open_folder
    from vitq.data.memory import open_iterable, open_npz, open_tensor

    match source:
        case ImageSource():
            opened = source
        case str() | Path():
            path = Path(source)
            if path.is_dir():
                opened = open_folder(path)
            elif path.is_file() and path.suffix == ".npz":
                opened = open_npz(path)
            elif path.exists():
                raise DataError(f"'{path}' is neither a folder of images nor an .npz file")
            else:
                raise DataError(f"'{path}': no such folder or file")
        case Tensor():
            opened = open_tensor(source, None)
        case (Tensor() as images, Tensor() as labels) if images.ndim == 4 and labels.ndim == 1:
            opened = open_tensor(images, labels)
        case Iterable():
            opened = open_iterable(source)
        case _:
            raise DataError(
                f"images cannot be read from a {type(source).__name__}; pass a folder, .npz, tensor or list"
            )
    if not opened.items:
        raise DataError(f"no images found in {opened.layout}")
    return opened
