"""Labels from outside to class indices."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

from vitq.data.sources import ImageItem
from vitq.errors import DataError

LARGEST_LABEL = 10**9


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


def _expected(where: str, count: int, got: str) -> str:
    return (
        f"{where}: labels must be {count} class indices (integers from 0), not {got}; "
        "leave labels out where they are no classes"
    )
