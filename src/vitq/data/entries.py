"""Where the image is in what a data set, a loader or a list gives: one rule."""

from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image

from vitq.data.names import shown
from vitq.errors import DataError

IMAGE_KEYS = (
    "pixel_values", "image", "images", "img", "imgs", "picture", "x", "input", "inputs", "data", "jpg", "jpeg", "png",
    "webp",
)  # fmt: skip
LABEL_KEYS = (
    "label", "labels", "target", "targets", "fine_label", "class", "cls", "y", "mask", "segmentation_mask",
    "annotation", "depth", "depth_map", "objects",
)  # fmt: skip
_DEEPEST = 4


def rows_of(entry: Any, labels: bool) -> Iterator[tuple[Any, Any]]:
    """Yield (pixels, label or None) of an entry, None where labels are not wanted; pixels may still be a batch.

    Of a mapping the image is under the first of ``IMAGE_KEYS`` that it has, of a tuple or list it is the first element
    and the label the second; what else there is is left alone. A list of nothing but pictures, tuples or mappings is
    a batch of entries, and so is a list where the image should be. Raises DataError where there is no image.
    """
    if _is_batch(entry):
        for row in entry:
            yield from rows_of(row, labels)
        return
    pixels, label = _split(entry)
    label = label if labels else None
    for _ in range(_DEEPEST):
        if not isinstance(pixels, tuple | Mapping) or is_encoded(pixels):
            break
        pixels, _ = _split(pixels)
    if not isinstance(pixels, list):
        yield pixels, label
        return
    try:
        pairs = list(zip(pixels, [None] * len(pixels) if label is None else label, strict=True))
    except (TypeError, ValueError) as error:
        raise DataError(f"a batch of {len(pixels)} images has labels that are not {len(pixels)}") from error
    yield from pairs


def is_encoded(pixels: Any) -> bool:
    """Whether this is an image file as Hugging Face keeps it: ``{"bytes": …, "path": …}``."""
    return isinstance(pixels, Mapping) and bool({"bytes", "path"} & set(pixels))


def has_image(entry: Mapping[Any, Any]) -> bool:
    """Whether a mapping is an entry, and not something that holds entries."""
    return any(key in entry for key in IMAGE_KEYS)


def _split(entry: Any) -> tuple[Any, Any]:
    if isinstance(entry, Mapping) and not is_encoded(entry):
        key = next((key for key in IMAGE_KEYS if key in entry), None)
        if key is None:
            keys = shown(", ".join(map(str, entry)))
            raise DataError(f"an entry has the keys {keys}; expected 'image' or another of {', '.join(IMAGE_KEYS)}")
        return entry[key], next((entry[key] for key in LABEL_KEYS if key in entry), None)
    if isinstance(entry, tuple | list):
        if not entry:
            raise DataError("an entry is empty; expected an image, or an image and its label")
        return entry[0], entry[1] if len(entry) > 1 else None
    return entry, None


def _is_batch(entry: Any) -> bool:
    if not isinstance(entry, list) or not entry:
        return False
    return all(isinstance(row, Image.Image) for row in entry) or all(isinstance(row, tuple | Mapping) for row in entry)
