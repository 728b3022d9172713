"""The one door for files of images and labels: regular files of bounded size, and nothing else."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from vitq.data.names import shown
from vitq.errors import DataError

FILE_BYTES = 2**30
"""Largest image or table that is read: above any photograph of Pillow's largest size."""


def open_regular(path: Path, name: str) -> BinaryIO:
    """Open a regular file for reading; DataError names a missing one, a folder, FIFO, socket or device.

    It is looked at before it is opened, since opening a FIFO waits and opening a device may act, and again afterwards,
    since it may have been replaced in between.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        _require_regular(path.stat(), name)
        file = os.fdopen(os.open(path, flags), "rb")
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: cannot be read ({reason(error)})") from error
    try:
        _require_regular(os.fstat(file.fileno()), name)
    except DataError:
        file.close()
        raise
    return file


def read_file(path: Path, name: str) -> bytes:
    """Return the content of a regular file of at most 1 GiB; DataError for anything else."""
    try:
        with open_regular(path, name) as file:
            content = file.read(FILE_BYTES + 1)
    except (OSError, MemoryError) as error:
        raise DataError(f"{name}: cannot be read ({reason(error)})") from error
    if len(content) > FILE_BYTES:
        raise DataError(f"{name}: larger than {FILE_BYTES >> 20} MiB")
    return content


def is_folder(path: Path) -> bool:
    """Whether a path is a folder, and not a file; DataError where it is neither or cannot be looked at."""
    where = f"'{shown(path)}'"
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{where}: no such folder or file") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: cannot be read ({reason(error)})") from error


def reason(error: BaseException) -> str:
    """Return what an error says, without the path that it repeats."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return shown(said)


def _require_regular(found: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{name}: not a regular file, so it is not opened")
