"""Labels from outside to class indices."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

from vitq.data.items import ImageItem
from vitq.data.targets import BoxLabel, MapLabel, Target, boxes_of, is_boxes, is_map, map_of
from vitq.errors import DataError

LARGEST_LABEL = 10**9
_WORDS: dict[type, str] = {MapLabel: "a map", BoxLabel: "boxes"}


def class_indices(labels: Any, count: int, where: str) -> list[int | None]:
    """Return ``count`` class indices as plain integers, or a None for each image where there are no labels.

    Whole floats, booleans and shape (N, 1), as losses for one logit take them, are class indices too. Raises DataError
    for anything else.
    """
    if labels is None:
        return [None] * count
    try:
        values = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    except Exception as error:  # ragged lists, sparse tensors, objects of any kind
        raise DataError(_expected(where, count, type(labels).__name__)) from error
    flat = values.reshape(-1) if values.shape in ((count,), (count, 1)) or values.size == count == 1 else values
    fits = flat.shape == (count,) and flat.dtype.kind in "iubf"
    if not fits or (count and not bool(((flat >= 0) & (flat < LARGEST_LABEL) & (flat % 1 == 0)).all())):
        raise DataError(_expected(where, count, f"{values.dtype} {values.shape}"))
    return [int(value) for value in flat]


def refuse_two_labels(items: Iterable[ImageItem]) -> None:
    """Raise DataError where one file, under whatever names and links, has two labels."""
    seen: dict[tuple[int, int], ImageItem] = {}
    for item in items:
        if item.path is None or item.label is None:
            continue
        try:
            found = item.path.stat()
        except (OSError, ValueError):  # told when it is read
            continue
        first = seen.setdefault((found.st_dev, found.st_ino), item)
        if first.label != item.label:
            raise DataError(
                f"one file has two labels: {first.shown} is class {first.label} and {item.shown} is class {item.label}"
            )


def labels_of(labels: Any, count: int, where: str) -> list[int | Target | None]:
    """Return the labels of ``count`` images: class indices as ``class_indices`` reads them, maps, boxes, or None each.

    Maps are pictures or arrays (N, H, W), boxes mappings, alone where there is one image. Raises DataError for
    anything else.
    """
    batched = isinstance(labels, Tensor | np.ndarray) and labels.ndim > 0
    several = list(labels) if batched or isinstance(labels, list | tuple) else []
    rows = [labels] if count == 1 and (is_map(labels) or is_boxes(labels)) else several
    if len(rows) == count and rows and all(is_map(row) for row in rows):
        return [map_of(row, f"{where}, label {place}") for place, row in enumerate(rows)]
    if len(rows) == count and rows and all(is_boxes(row) for row in rows):
        return [boxes_of(row, f"{where}, label {place}") for place, row in enumerate(rows)]
    return [*class_indices(labels, count, where)]


def refuse_two_kinds(items: Iterable[ImageItem]) -> None:
    """Raise DataError where some labels are classes and others maps or boxes."""
    kinds: dict[type, ImageItem] = {}
    for item in items:
        label = item.label if item.target is None else item.target
        if label is not None:
            kinds.setdefault(type(label), item)
    if len(kinds) > 1:
        names = " and ".join(f"{_WORDS.get(kind, 'a class')} for {item.shown}" for kind, item in kinds.items())
        raise DataError(f"labels are of several kinds: {names}; give one kind")


def _expected(where: str, count: int, got: str) -> str:
    return (
        f"{where}: labels must be {count} class indices (integers from 0), not {got}; maps (N, H, W) and mappings of "
        "boxes are labels too; leave labels out where they are none of these"
    )
