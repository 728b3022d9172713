"""What data is, in one hash: of a file or a model by its content, of images by their names, sizes and beginnings."""

import hashlib
import os
from functools import cache
from pathlib import Path

from vitq.artifact.files import reason, shown
from vitq.data.splits import shards_in
from vitq.errors import SuiteError

SMALL = 1 << 20
"""Files up to so many bytes that are no pictures are read whole: labels, configurations."""
BEGINNING, MANY = 4096, 100_000
TEXTS = (".csv", ".json", ".yaml", ".yml", ".txt")


@cache
def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file; SuiteError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SuiteError(f"'{shown(path)}' cannot be read: {reason(error)}") from error


def digest_of_model(folder: Path) -> str:
    """Return one hash of the names and the contents of a folder's files, for weights may differ in their last byte."""
    found = hashlib.sha256()
    for place in files_in(folder):
        found.update(f"{place.relative_to(folder)}\0{digest_of_file(place)}\0".encode("utf-8", "surrogateescape"))
    return found.hexdigest()


def files_in(folder: Path) -> list[Path]:
    """Return all files under a folder, sorted."""
    return sorted(Path(inner) / name for inner, _, names in os.walk(folder, followlinks=True) for name in names)


@cache
def digest_of_images(path: Path) -> str:
    """Return one hash of a file, or of a folder: names, sizes and beginnings of its files, its small texts whole.

    Of more than 100,000 files the beginnings are left out: they would take minutes.
    """
    if path.is_file():
        return digest_of_file(path)
    found = hashlib.sha256()
    try:
        files = files_in(path) if path.exists() else shards_in(path)
        for place in files:
            size = place.stat().st_size
            found.update(
                f"{place.relative_to(path) if path.exists() else place.name}\0{size}\0".encode(
                    "utf-8", "surrogateescape"
                )
            )
            if size <= SMALL and place.suffix.lower() in TEXTS:
                found.update(digest_of_file(place).encode())
            elif len(files) <= MANY:
                with place.open("rb") as file:
                    found.update(file.read(BEGINNING))
    except OSError as error:
        raise SuiteError(f"'{shown(path)}' cannot be read: {reason(error)}") from error
    return found.hexdigest()
