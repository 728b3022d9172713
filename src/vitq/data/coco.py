"""COCO's json: images, boxes in them, and the categories of these."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vitq.data.decode import open_picture
from vitq.data.files import read_file
from vitq.data.items import ImageItem, ImageSource
from vitq.data.names import shown
from vitq.data.targets import COLUMNS, BoxLabel, rows_of_boxes
from vitq.errors import DataError

NAMES = ("annotations.json", "_annotations.coco.json", "coco.json", "instances.json")
"""Files that make the folder that they lie in one of COCO."""


def coco_in(folder: Path) -> Path | None:
    """Return the file that makes a folder one of COCO's, if there is one."""
    return next((folder / name for name in NAMES if (folder / name).is_file()), None)


def open_coco(path: Path, labels: bool = True) -> ImageSource:
    """Open the images of a COCO json, with the boxes where ``labels`` are wanted.

    They lie beside the file, in ``images`` there or one folder above, or in the folder that its name ends in
    (``annotations/instances_val2017.json`` has ``val2017``). Raises DataError where the file is no such json.
    """
    where = f"'{shown(path)}'"
    try:
        content = json.loads(read_file(path, where))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: no readable json") from error
    try:
        names = {int(image["id"]): str(image["file_name"]) for image in content["images"]}
        places = {number: place for place, number in enumerate(sorted(int(c["id"]) for c in content["categories"]))}
        boxes = _boxes(content["annotations"], names, places, where) if labels else {}
    except DataError:
        raise
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{where}: no COCO json of boxes ({type(error).__name__}: {shown(error)}); it has 'images' "
            "(id, file_name), 'categories' (id) and 'annotations' (image_id, category_id, bbox)"
        ) from error
    root = _root(path, names, where)
    items = tuple(
        ImageItem(name, partial(open_picture, root / name), path=root / name, target=boxes.get(number))
        for number, name in names.items()
    )
    return ImageSource("COCO json", items)


def _boxes(found: Any, names: dict[int, str], places: dict[int, int], where: str) -> dict[int, BoxLabel]:
    rows: dict[int, list[list[float]]] = {number: [] for number in names}
    largest = max(places, default=-1)
    for one in found:
        image, category = int(one["image_id"]), int(one["category_id"])
        if image not in names or category not in places:
            unknown = f"image {image}" if image not in names else f"category {category}"
            raise DataError(f"{where}: an annotation names {unknown}, which the file does not list")
        left, top, width, height = map(float, one["bbox"])
        crowd = float(bool(one.get("iscrowd", 0)))
        rows[image].append([category, places[category], left, top, left + width, top + height, crowd, largest])
    checked = {}
    for image, own in rows.items():
        rows_M8 = np.array(own).reshape(-1, COLUMNS)
        ids_M, places_M, crowd_M, largest_M = rows_M8[:, [0, 1, 6, 7]].T
        named = f"{where}, image {image}"
        checked[image] = BoxLabel(rows_of_boxes(ids_M, places_M, rows_M8[:, 2:6], crowd_M, largest_M, named))
    return checked


def _root(path: Path, names: dict[int, str], where: str) -> Path:
    """Return the folder in which the first image lies."""
    first = next(iter(names.values()), None)
    if first is None:
        raise DataError(f"{where}: lists no images")
    here, above = path.parent, path.parent.parent
    roots = (here, here / "images", above / path.stem.rpartition("_")[2], above / "images", above)
    root = next((root for root in roots if _is_file(root / first)), None)
    if root is None:
        raise DataError(f"{where}: its first image, {shown(first)}, is neither beside it nor in 'images'")
    return root


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file system has
        return False
