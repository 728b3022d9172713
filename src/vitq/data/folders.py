"""Folders of images: with labels.csv, COCO's json, a folder of maps beside the images, one folder a class, or flat."""

from functools import partial
from pathlib import Path

from vitq.data.coco import coco_in, open_coco
from vitq.data.decode import open_picture
from vitq.data.files import reason
from vitq.data.items import ImageItem, ImageSource
from vitq.data.maps import map_folder, with_maps
from vitq.data.names import shown
from vitq.data.parquet import open_parquet
from vitq.data.shards import open_shards
from vitq.data.splits import shards_in
from vitq.data.table import read_table
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


def open_folder(folder: Path, labels: bool = True) -> ImageSource:
    """Open a folder of images by what lies in it, without its labels where they are not wanted; raise DataError when
    no layout fits, labels.csv is malformed or a folder cannot be read.
    """
    try:
        table = folder / "labels.csv"
        if table.is_symlink() or (table.exists() and not table.is_dir()):
            rows = read_table(table, labels)
            return ImageSource("labels.csv", tuple(_item(folder / name, name, label) for name, label in rows))
        if labels and (boxes := coco_in(folder)) is not None:
            return open_coco(boxes)
        pictures = _pictures(folder)
        subfolders = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        if pictures:
            return _flat(folder, pictures, subfolders)
        if files := shards_in(folder):
            return open_files(files, labels)
        if (maps := map_folder(subfolders)) is not None:
            return _beside_maps(next(entry for entry in subfolders if entry != maps), maps, labels)
        return _class_folders(folder, subfolders, labels)
    except OSError as error:
        where = shown(error.filename or folder)
        raise DataError(f"'{where}': the folder cannot be read ({reason(error)})") from error


def open_files(files: list[Path], labels: bool = True) -> ImageSource:
    """Open the files of one split, all parquet or all webdataset; DataError where they are of both kinds."""
    kinds = {path.suffix.lower() for path in files}
    if len(kinds) > 1:
        raise DataError(f"'{shown(files[0].parent)}' holds parquet and tar files; give one kind")
    return open_parquet(files, labels) if kinds == {".parquet"} else open_shards(files, labels)


def _flat(folder: Path, pictures: list[Path], subfolders: list[Path]) -> ImageSource:
    items = tuple(_item(path, path.name, None) for path in pictures)
    note = f"{len(subfolders)} folders inside '{shown(folder.name)}' are left out: images lie beside them"
    return ImageSource("flat folder", items, (("subfolders-ignored", note),) if subfolders else ())


def _beside_maps(images: Path, maps: Path, labels: bool) -> ImageSource:
    items = tuple(_item(path, str(path.relative_to(images)), None) for path in _pictures(images, recursive=True))
    source = ImageSource("images beside maps", items)
    return with_maps(source, images, maps) if labels else source


def _class_folders(folder: Path, subfolders: list[Path], labels: bool) -> ImageSource:
    names = [entry.name for entry in subfolders]
    if names and set(map(str.lower, names)) <= _SPLITS:
        raise DataError(
            f"'{shown(folder)}' holds the splits {shown(', '.join(names))}; point to one of them, such as "
            f"'{shown(subfolders[0])}'"
        )
    items = tuple(
        _item(path, str(path.relative_to(folder)), label if labels else None)
        for label, subfolder in enumerate(subfolders)
        for path in _pictures(subfolder, recursive=True)
    )
    notes: tuple[tuple[str, str], ...] = ()
    if labels and all(name.isdecimal() and len(name) < 10 for name in names) and names != sorted(names, key=int):
        text = f"class folders sorted as text, as torchvision does: {', '.join(names[:3])} are classes 0, 1, 2"
        notes = (("class-order", f"{text}; where the numbers are the classes, write a labels.csv"),)
    return ImageSource("class folders", items, notes, tuple(map(shown, names)))


def _item(path: Path, name: str, label: int | None) -> ImageItem:
    return ImageItem(name, partial(open_picture, path), label, path=path, decodes=True)


def _pictures(folder: Path, recursive: bool = False) -> list[Path]:
    entries = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(
        path for path in entries if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
