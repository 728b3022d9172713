"""What a source of images gives: items in a fixed order, each read when it is needed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from torch import Tensor

from vitq.data.names import shown
from vitq.data.targets import BoxLabel, Target

Pixels = Image.Image | Tensor
"""A picture as stored, or a tensor (C, H, W) that is already preprocessed."""


@dataclass(frozen=True)
class ImageItem:
    """One image: its name, how to read it (may raise DataError), and its class index or its ``target`` if known.

    ``shape`` (C, H, W) is that of an image that is already preprocessed, None for a picture. ``path`` is the file
    that it is in, if any. ``fetch`` gives the item with its pixels; it is called in the thread that walks through the
    items, since it runs another's code. ``decodes``: reading it decodes bytes of a file, which another process can do.
    """

    name: str
    read: Callable[[], Pixels]
    label: int | None = None
    shape: tuple[int, ...] | None = None
    path: Path | None = None
    fetch: "Callable[[], ImageItem] | None" = None
    target: Target | None = None
    decodes: bool = False

    @property
    def labelled(self) -> bool:
        """Whether it has a class, a map or boxes."""
        return self.label is not None or self.target is not None

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
        """Whether every image has a label, whatever it says."""
        return self.unlabelled == 0

    @property
    def unlabelled(self) -> int:
        """Number of images without a label."""
        return sum(not item.labelled for item in self.items)

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) where every image is already preprocessed and they are all alike, else None."""
        shapes = {item.shape for item in self.items}
        only = shapes.pop() if len(shapes) == 1 else None
        return None if only is None else (only[0], only[1], only[2])

    def padded(self) -> "ImageSource":
        """Return the source with as many rows in each label of boxes."""
        boxes = [item.target for item in self.items if isinstance(item.target, BoxLabel)]
        count = max((len(target.rows_M8) for target in boxes), default=0)
        if all(target.count == count for target in boxes):
            return self
        items = (
            replace(item, target=replace(item.target, count=count)) if isinstance(item.target, BoxLabel) else item
            for item in self.items
        )
        return replace(self, items=tuple(items))

    def describe(self) -> str:
        """Return one line for people: number of images, layout, labels."""
        classes = f" in {len(self.class_names)} classes" if self.class_names is not None else ""
        labels = "labelled" if self.labelled else "without labels"
        return f"{len(self)} images{classes} ({self.layout}), {labels}"
