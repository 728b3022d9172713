"""Shards of webdataset: tar files of an image and its label under one name, ``00017.jpg`` and ``00017.cls``."""

import json
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

from vitq.data.decode import decode_picture
from vitq.data.files import FILE_BYTES, open_regular, reason
from vitq.data.items import ImageItem, ImageSource
from vitq.data.names import shown
from vitq.errors import DataError

IMAGES = ("jpg", "jpeg", "png", "webp", "ppm", "bmp", "tif", "tiff", "gif")
LABELS = ("cls", "json")
LABEL_BYTES = 1 << 16


def open_shards(files: list[Path], labels: bool = True) -> ImageSource:
    """Open the images of shards; headers and labels are read now, images where they lie when it is their turn.

    Nothing is unpacked. The label is the number in ``.cls``, or ``label`` or ``cls`` of ``.json``. DataError for what
    is no plain tar file.
    """
    return ImageSource("webdataset", tuple(item for path in files for item in _items(path, labels)))


def _items(path: Path, labels: bool) -> list[ImageItem]:
    images: dict[str, tuple[str, int, int]] = {}
    found: dict[str, int] = {}
    name = shown(path.name)
    try:
        with open_regular(path, name) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                stem, _, kind = member.name.rpartition("/")[2].partition(".")
                key, kind = f"{member.name.rpartition('/')[0]}/{stem}", kind.lower()
                if not member.isreg() or not stem:
                    continue
                if kind in IMAGES:
                    images.setdefault(key, (member.name, member.offset_data, member.size))
                elif labels and kind in LABELS and member.size <= LABEL_BYTES and key not in found:
                    content = archive.extractfile(member)
                    own = None if content is None else _label(content.read(), kind, f"{name}, {shown(member.name)}")
                    if own is not None:
                        found[key] = own
    except tarfile.TarError as error:
        raise DataError(f"{name}: no plain tar file ({reason(error)}); unpack it where it is compressed") from error
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({reason(error)})") from error
    return [
        ImageItem(f"{path.name}:{member}", partial(_picture, path, member, place, size), found.get(key), decodes=True)
        for key, (member, place, size) in images.items()
    ]


def _label(content: bytes, kind: str, name: str) -> int | None:
    try:
        value: Any = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    if kind == "json":
        value = next((value[k] for k in ("label", "cls") if k in value), None) if isinstance(value, dict) else None
        return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise DataError(f"{name}: a label is a class index, not '{shown(content[:40].decode('utf-8', 'replace'))}'")
    return value


def _picture(path: Path, member: str, place: int, size: int) -> Any:
    name = f"{shown(path.name)}, {shown(member)}"
    if size > FILE_BYTES:
        raise DataError(f"{name}: larger than {FILE_BYTES >> 20} MiB")
    try:
        with open_regular(path, shown(path.name)) as file:
            file.seek(place)
            content = file.read(size)
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({reason(error)})") from error
    return decode_picture(content, name)
