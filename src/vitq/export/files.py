"""The files of an export: their place is checked before any work, and each is whole or not there, a kill included."""

import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from vitq.errors import ArtifactError, ExportError
from vitq.export.targets import IR

MARK = b"vitq.target"
"""In the metadata of every file that vitq has written."""


def check_place(path: Path, force: bool = False) -> None:
    """Raise ArtifactError where ``path`` cannot be written; ExportError where, unless ``force``, it is not vitq's."""
    try:
        found = _status(path)
        if found is not None and not stat.S_ISREG(found.st_mode):
            raise ExportError(f"--out {path} is no regular file; name another")
        for held in (path, *([path.with_suffix(".bin")] if path.suffix == IR else [])):
            if not force and _status(held) is not None and not _marked(path):
                raise ExportError(f"--out {path}: {held} was not written by vitq; name another file, or --force it")
        folder = path.parent
        while _status(folder) is None:
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _unwritable(path, error) from error


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write ``files``, the last of which reads the others; raise ArtifactError where that fails.

    All are written under other names first. The last one's old version goes before the others are replaced: a kill at
    any time leaves the old files, the new ones, or no last one, never parts of both. Drafts of a killed process are
    removed by the next one.
    """
    drafts = {name: folder / f".{name}.{os.getpid()}.part" for name in files}
    last = folder / list(files)[-1]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            for left in _left(folder, name):
                left.unlink(missing_ok=True)
            drafts[name].write_bytes(content)
        if len(files) > 1:
            last.unlink(missing_ok=True)
        for name, draft in drafts.items():
            draft.replace(folder / name)
    except OSError as error:
        raise _unwritable(last, error) from error
    finally:
        for draft in drafts.values():
            with suppress(OSError):
                draft.unlink()


def _left(folder: Path, name: str) -> Iterator[Path]:
    """Yield the drafts of ``name`` whose process has ended."""
    for draft in folder.iterdir():
        found = re.fullmatch(rf"\.{re.escape(name)}\.(\d+)\.part", draft.name)
        if found and not _alive(int(found[1])):
            yield draft


def _alive(process: int) -> bool:
    if os.name != "posix":  # elsewhere a signal of 0 is no question
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _marked(path: Path) -> bool:
    """Whether ``path`` says that vitq has written it."""
    return path.exists() and MARK in path.read_bytes()


def _unwritable(path: Path, error: OSError | ValueError) -> ArtifactError:
    reason = getattr(error, "strerror", None) or str(error)
    return ArtifactError(f"cannot write {path}: {reason}; choose another folder or free some space")
