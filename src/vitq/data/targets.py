"""What a label says of an image beyond its class: a map of its pixels, or boxes in it."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitq.data.decode import open_picture
from vitq.data.files import read_file, reason
from vitq.data.geometry import Grid
from vitq.data.names import shown
from vitq.errors import DataError

COLUMNS = 8
"""Numbers of a box: category id, place of the category among all, left, top, right, bottom, 1 for a crowd, largest id.

The largest id is that of all categories of the labels, so that every part of them is read alike.
"""

_PLAIN_MODES = ("1", "L", "P", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_BOXES, _CATEGORIES = ("boxes", "bbox"), ("labels", "class_labels", "category", "categories", "category_id")


@dataclass(frozen=True, eq=False)
class MapLabel:
    """A number for each pixel of an image: a class, a depth, a saliency.

    As a tensor (1, H, W) of the model's input: int16 of an 8-bit picture and int32 of a deeper one, both -1 outside of
    the picture, and float32, NaN outside, of numbers.
    """

    read: Callable[[], np.ndarray]
    name: str

    def tensor(self, grid: Grid | None, size: tuple[int, int]) -> Tensor:
        """Return the map where ``grid`` puts it, or as it is for an image prepared at ``size`` = (H, W)."""
        values_HW = self.read()
        wanted = size if grid is None else grid.picture
        if values_HW.shape != wanted:
            sizes = " and ".join(f"{w}x{h}" for h, w in (values_HW.shape, wanted))
            raise DataError(f"{self.name}: the map and its image have {sizes} pixels; give one value a pixel")
        outside = float("nan") if values_HW.dtype.kind == "f" else -1
        return torch.from_numpy((values_HW if grid is None else grid.taken(values_HW, outside)).copy())[None]


@dataclass(frozen=True, eq=False)
class BoxLabel:
    """The boxes of an image, (M, 8) as ``COLUMNS`` says, in its pixels; as a tensor in shares of the model's input.

    Rows beyond the image's own have the category -1; all images of a source have ``count`` rows.
    """

    rows_M8: np.ndarray
    count: int = 0

    def tensor(self, grid: Grid | None, size: tuple[int, int]) -> Tensor:
        """Return the boxes where ``grid`` puts them, or as they lie in an image prepared at ``size`` = (H, W)."""
        rows_M8 = self.rows_M8.copy()
        if grid is None:
            rows_M8[:, 2:6] = (rows_M8[:, 2:6] / np.array([size[1], size[0]] * 2)).clip(0, 1)
        else:
            rows_M8[:, 2:6] = grid.placed(rows_M8[:, 2:6])
        seen = (rows_M8[:, 4] > rows_M8[:, 2]) & (rows_M8[:, 5] > rows_M8[:, 3])
        padded = np.full((max(self.count, len(seen)), COLUMNS), -1.0, np.float32)
        padded[: seen.sum()] = rows_M8[seen]
        return torch.from_numpy(padded)


Target = MapLabel | BoxLabel


def map_of(values: Any, name: str) -> MapLabel:
    """Return the label of a map in memory: a picture or an array (H, W), also (1, H, W); DataError for another form."""
    values_HW = _as_map(values, name)
    return MapLabel(lambda: values_HW, name)


def map_in(path: Path) -> MapLabel:
    """Return the label of a map in a file: a picture of one channel, or ``.npy`` of (H, W)."""
    return MapLabel(partial(_read_map, path), shown(path.name))


def boxes_of(label: Mapping[Any, Any], name: str) -> BoxLabel:
    """Return the label of boxes in memory, as torchvision or ``datasets`` have them.

    ``boxes`` are (left, top, right, bottom), ``bbox`` is (left, top, width, height), in pixels, with a class for each.
    """
    kind = next(key for key in _BOXES if key in label)
    classes = next((label[key] for key in _CATEGORIES if key in label), None)
    try:
        boxes_M4 = np.array(label[kind], np.float64).reshape(-1, 4)
        classes_M = np.array(classes, np.float64).reshape(len(boxes_M4))
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: {kind} have to be (N, 4) numbers, with a class for each under 'labels'") from error
    if kind == "bbox":
        boxes_M4[:, 2:] += boxes_M4[:, :2]
    return BoxLabel(rows_of_boxes(classes_M, classes_M, boxes_M4, np.zeros(len(boxes_M4)), classes_M, name))


def rows_of_boxes(
    ids_M: Any, places_M: Any, boxes_M4: np.ndarray, crowd_M: Any, largest_M: Any, name: str
) -> np.ndarray:
    """Return checked rows (M, 8) of boxes (left, top, right, bottom); DataError for what is no box or class."""
    rows = np.concatenate([np.stack([ids_M, places_M], 1), boxes_M4, np.stack([crowd_M, largest_M], 1)], 1)
    if not np.isfinite(rows).all() or bool((rows[:, :2] < 0).any()) or bool((rows[:, :2] % 1 != 0).any()):
        raise DataError(f"{name}: a box needs four finite numbers and a class number from 0")
    return rows.astype(np.float32)


def is_map(label: Any) -> bool:
    """Whether a label of one image is a map of its pixels."""
    if isinstance(label, Image.Image):
        return True
    return isinstance(label, Tensor | np.ndarray) and label.ndim >= 2 and min(label.shape[-2:]) > 1


def is_boxes(label: Any) -> bool:
    """Whether a label of one image is a mapping with boxes."""
    return isinstance(label, Mapping) and any(key in label for key in _BOXES)


def _read_map(path: Path) -> np.ndarray:
    name = shown(path.name)
    if path.suffix.lower() != ".npy":
        return _as_map(open_picture(path), name)
    try:
        return _as_map(np.load(io.BytesIO(read_file(path, name)), allow_pickle=False), name)
    except DataError:
        raise
    except Exception as error:  # on damaged bytes NumPy raises whatever it stumbled over
        raise DataError(f"{name}: not a readable .npy without pickled objects ({reason(error)})") from error


def _as_map(values: Any, name: str) -> np.ndarray:
    if isinstance(values, Image.Image):
        if values.mode not in _PLAIN_MODES:
            raise DataError(f"{name}: a map is a picture of one channel, this one is {values.mode}")
        values = np.asarray(values)
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    array = array[0] if array.ndim == 3 and len(array) == 1 else array
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise DataError(f"{name}: a map is one number a pixel, (H, W), not {array.dtype} {array.shape}")
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    return array.astype(np.int16 if array.dtype.itemsize == 1 else np.int32)
