"""Folders of images: with labels.csv, with one folder a class, or flat."""

import csv
from functools import partial
from pathlib import Path

from vitq.data.decode import open_picture
from vitq.data.sources import ImageItem, ImageSource
from vitq.errors import DataError

SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".bmp",
        ".gif",
        ".webp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".jp2",
        ".avif",
        ".heic",
        ".tga",
    ]
)
_SPLITS = {"train", "training", "val", "valid", "validation", "test", "calibration"}


def open_folder(folder: Path) -> ImageSource:
    """Open a folder of images by what lies in it; raise DataError when no layout fits or labels.csv is
    malformed.
    """
    table = folder / "labels.csv"
    if table.is_file():
        return _from_table(folder, table)
    pictures = _pictures(folder)
    subfolders = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if pictures:
        return _flat(folder, pictures, subfolders)
    return _class_folders(folder, subfolders)


def _flat(folder: Path, pictures: list[Path], subfolders: list[Path]) -> ImageSource:
    items = tuple(_item(path, path.name, None) for path in pictures)
    note = f"{len(subfolders)} folders inside '{folder.name}' are left out: images lie beside them"
    return ImageSource("flat folder", items, (("subfolders-ignored", note),) if subfolders else ())


def _class_folders(folder: Path, subfolders: list[Path]) -> ImageSource:
    names = [entry.name for entry in subfolders]
    if names and set(map(str.lower, names)) <= _SPLITS:
        raise DataError(
            f"'{folder}' holds the splits {', '.join(names)}; point to one of them, such as '{subfolders[0]}'"
        )
    items = tuple(
        _item(path, str(path.relative_to(folder)), label)
        for label, subfolder in enumerate(subfolders)
        for path in _pictures(subfolder, recursive=True)
    )
    notes: tuple[tuple[str, str], ...] = ()
    if all(name.isdecimal() for name in names) and names != sorted(names, key=int):
        text = f"class folders sorted as text, as torchvision does: {', '.join(names[:3])} are classes 0, 1, 2"
        notes = (("class-order", f"{text}; where the numbers are the classes, write a labels.csv"),)
    return ImageSource("class folders", items, notes, tuple(names))


def _from_table(folder: Path, table: Path) -> ImageSource:
    items: list[ImageItem] = []
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        columns = reader.fieldnames or []
        if "filename" not in columns or "label" not in columns:
            raise DataError(
                f"'{table}': the first line must name the columns filename,label; it has {','.join(columns)}"
            )
        for row in reader:
            name, label = (row["filename"] or "").strip(), (row["label"] or "").strip()
            if not name or not label.isdecimal():
                raise DataError(
                    f"'{table}', line {reader.line_num}: expected filename,class index, not '{name},{label}'"
                )
            items.append(_item(folder / name, name, int(label)))
    return ImageSource("labels.csv", tuple(items))


def _item(path: Path, name: str, label: int | None) -> ImageItem:
    return ImageItem(name, partial(open_picture, path), label)


def _pictures(folder: Path, recursive: bool = False) -> list[Path]:
    entries = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(
        path for path in entries if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
