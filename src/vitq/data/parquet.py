"""Parquet files of a Hugging Face data set, such as a checkout of imagenet-1k: encoded images and labels by row."""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from vitq.data.decode import decode_picture
from vitq.data.entries import IMAGE_KEYS, LABEL_KEYS
from vitq.data.files import reason
from vitq.data.items import ImageItem, ImageSource
from vitq.data.names import shown
from vitq.errors import DataError

_KEPT = threading.local()
"""The row group that a thread has read last: images are read in order, hundreds of a group."""


def open_parquet(files: list[Path], labels: bool = True) -> ImageSource:
    """Open images by row; only labels are read now. DataError where there is no image column, or pyarrow is missing.

    Labels below 0, as those of a test split, are none.
    """
    items: list[ImageItem] = []
    names: tuple[str, ...] | None = None
    for path in files:
        items += _rows(path, labels)
        names = names or _class_names(_opened(path).schema_arrow.metadata or {})
    return ImageSource("parquet", tuple(items), class_names=names if labels else None)


def _rows(path: Path, labels: bool) -> Iterator[ImageItem]:
    file = _opened(path)
    columns = file.schema_arrow.names
    image = next((key for key in IMAGE_KEYS if key in columns), None)
    if image is None:
        raise DataError(f"{shown(path.name)} has the columns {shown(', '.join(columns))}; one must be 'image'")
    label = next((key for key in LABEL_KEYS if key in columns), None) if labels else None
    first = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        given = _labels(path, group, label) if label else [None] * count
        for row, own in enumerate(given):
            read = partial(_picture, path, group, row, image)
            yield ImageItem(f"{path.name}:{first + row}", read, own, decodes=True)
        first += count


def _labels(path: Path, group: int, label: str) -> list[int | None]:
    values = _told(path, lambda: _opened(path).read_row_group(group, [label], use_threads=False)[label].to_pylist())
    if not all(value is None or (isinstance(value, int) and not isinstance(value, bool)) for value in values):
        raise DataError(f"{shown(path.name)}: column '{label}' holds no class indices")
    return [None if value is None or value < 0 else value for value in values]


def _picture(path: Path, group: int, row: int, column: str) -> Any:
    name = f"{shown(path.name)}, row {row} of group {group}"
    value = _group(path, group, column)[row].as_py()
    content = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(content, bytes):
        raise DataError(f"{name}: holds no bytes of an image")
    return decode_picture(content, name)


def _group(path: Path, group: int, column: str) -> Any:
    key = (os.getpid(), path, group, column)
    if getattr(_KEPT, "key", None) != key:
        _KEPT.key = None
        _KEPT.values = _told(path, lambda: _opened(path).read_row_group(group, [column], use_threads=False)[column])
        _KEPT.key = key
    return _KEPT.values


def _opened(path: Path) -> Any:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(f"'{shown(path)}' needs pyarrow: pip install 'vitq[parquet]'") from error
    return _told(path, lambda: ParquetFile(path))


def _told(path: Path, read: Any) -> Any:
    try:
        return read()
    except Exception as error:  # pyarrow's own, and the system's
        raise DataError(f"{shown(path.name)} cannot be read as parquet ({reason(error)})") from error


def _class_names(metadata: Mapping[bytes, bytes]) -> tuple[str, ...] | None:
    """Return the names of the classes that Hugging Face writes beside the schema."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        names = next(features[key]["names"] for key in LABEL_KEYS if key in features)
        return tuple(map(str, names))
    except (LookupError, TypeError, ValueError, StopIteration):
        return None
