"""How files are read, checked and written: bounded, named in every error, whole or not at all."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError

from vitq.errors import ArtifactError, VitqError

JSON_BYTES = 256 * 2**20
TENSOR_BYTES = 256 * 2**30
DEPTH = 64
DRAFT = ".{}.vitq-part"
"""A file is written under this name beside its place, then renamed; a kill leaves nothing else half-written."""

UNREADABLE = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What Python and its libraries raise where a file holds other things than they expect."""


def read_file(path: Path, limit: int = JSON_BYTES, error: type[VitqError] = ArtifactError) -> bytes:
    """Return the bytes of a regular file of at most ``limit`` bytes; raise ``error``, which names it, otherwise."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):  # a pipe would hang
            os.close(descriptor)
            raise error(f"{shown(path)} is no regular file; put the file that vitq wrote in its place")
        with os.fdopen(descriptor, "rb") as file:
            if status.st_size > limit:
                raise error(f"{shown(path)} has {status.st_size:,} bytes; at most {limit:,} are read")
            return file.read(status.st_size)
    except FileNotFoundError as missing:
        raise error(f"{shown(path)} is missing; is the folder complete?") from missing
    except (OSError, ValueError) as failed:
        raise error(f"cannot read {shown(path)}: {reason(failed)}") from failed


def parse_json(content: bytes, path: Path, error: type[VitqError] = ArtifactError) -> dict[str, Any]:
    """Return the JSON object that is the ``content`` of ``path``, at most ``DEPTH`` deep; raise ``error`` otherwise."""
    with damaged(path, error):
        value = json.loads(content.decode("utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__} where an object is expected")
        level: list[Any] = [value]
        for _ in range(DEPTH):
            level = [
                child
                for parent in level
                for child in (parent.values() if isinstance(parent, dict) else parent)
                if isinstance(child, dict | list)
            ]
        if level:
            raise ValueError(f"it is nested more than {DEPTH} deep")
        return value


def to_json_bytes(value: Any) -> bytes:
    """Return stable, readable JSON."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def digest(content: bytes) -> str:
    """Return the SHA-256 of ``content`` in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


@contextmanager
def damaged(path: Path, error: type[VitqError] = ArtifactError) -> Iterator[None]:
    """Turn whatever the block raises over the content of ``path`` into an ``error`` that names the file."""
    try:
        yield
    except (*UNREADABLE, SafetensorError, VitqError) as failed:
        raise error(f"{shown(path)} is damaged: {reason(failed)}") from failed


def write_files(folder: Path, files: Mapping[str, bytes], error: type[VitqError] = ArtifactError) -> None:
    """Write each file whole or not at all, in order; raise ``error`` where the folder cannot be written."""
    draft = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            draft = folder / DRAFT.format(name)
            draft.unlink(missing_ok=True)
            with draft.open("xb") as file:  # never through a link that somebody put there
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(folder / name)
    except (OSError, ValueError) as failed:
        if draft is not None:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
        where = shown(folder if draft is None else folder / name)
        raise error(f"cannot write {where}: {reason(failed)}; choose another folder or free some space") from failed


def sweep_drafts(folder: Path) -> None:
    """Delete the drafts that killed runs have left in ``folder``."""
    for draft in folder.glob(DRAFT.format("*")):
        draft.unlink(missing_ok=True)


def exists(path: Path) -> bool:
    """Tell whether something is at ``path``, be it a broken link; a path that the system refuses holds nothing."""
    try:
        return path.exists() or path.is_symlink()
    except (OSError, ValueError):
        return False


def shown(path: Path, width: int = 300) -> str:
    """Return a path for a message; the middle of a very long one is left out."""
    text = str(path)
    return text if len(text) <= width else f"{text[: width // 2]}…{text[-width // 2 :]} ({len(text):,} characters)"


def reason(error: BaseException, width: int = 300) -> str:
    """Return in one line why something failed."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, ValidationError):
        parts = [f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors(include_url=False)]
        text = "; ".join(parts[:3]) + (f"; and {len(parts) - 3} more" if len(parts) > 3 else "")
    else:
        text = str(error) or type(error).__name__
        if not isinstance(error, ValueError | VitqError | SafetensorError):
            text = f"{type(error).__name__}: {text}"
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[:width]}…"
