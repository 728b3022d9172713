"""Data sets in few large files: which files of a folder are one split."""

import re
from pathlib import Path

from vitq.data.names import shown
from vitq.errors import DataError

SUFFIXES = (".parquet", ".tar")
_NUMBERED = re.compile(r"[-_.]?\d+(-of-\d+)?$")


def split_of(path: Path) -> str:
    """Return the split that a file is a part of: ``validation-00003-of-00014.parquet`` is of validation."""
    return _NUMBERED.sub("", path.stem)


def shards_in(folder: Path) -> list[Path]:
    """Return the files of a data set's folder, or of the folder ``data`` in it; DataError for several splits.

    A folder that is not there is a split of the one around it, ``imagenet/validation``; no files where there are none.
    """
    if folder.is_dir():
        found = _files(folder)
        splits = sorted({split_of(path) for path in found})
        if len(splits) > 1:
            raise DataError(
                f"'{shown(folder)}' holds the splits {shown(', '.join(splits))}; point to one of them, such as "
                f"'{shown(folder / splits[0])}'"
            )
        return found
    if not folder.name or folder.exists() or not folder.parent.is_dir():
        return []
    return [path for path in _files(folder.parent) if split_of(path) == folder.name]


def is_split(path: Path) -> bool:
    """Whether a path that is not there names a split of the folder around it."""
    try:
        return bool(shards_in(path))
    except (OSError, ValueError, DataError):
        return False


def _files(folder: Path) -> list[Path]:
    for place in (folder, folder / "data"):
        if place.is_dir() and (found := sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES)):
            return [path for path in found if not path.name.startswith(".") and path.is_file()]
    return []
