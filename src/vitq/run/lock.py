"""A folder belongs to one run at a time: a lock that the system frees when its process ends, however it ends."""

import errno
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from vitq.artifact.files import reason, shown
from vitq.errors import ResumeError

LOCK = ".vitq-lock"
LIMIT = 4096


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` while the block runs; ResumeError, which names the holder, where another run has it.

    The lock is the system's, so one that a killed run has left is free; the file only says who holds it.
    """
    path = folder / LOCK
    descriptor = _acquire(path)
    try:
        yield
    finally:
        try:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        except (OSError, ValueError) as error:
            raise ResumeError(f"cannot write in {shown(path.parent)}: {reason(error)}; choose another --out") from error
        try:
            if _try(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # of a file that the holder before has just deleted


def _try(descriptor: int, path: Path) -> bool:
    """Lock the open file and sign it; return False where it is no longer the one at ``path``."""
    try:
        _lock(descriptor)
        if not _is_at(descriptor, path):
            return False
        os.ftruncate(descriptor, 0)
        os.write(descriptor, _mark())
        return True
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            raise ResumeError(
                f"{shown(path.parent)} is in use by another run{_holder(descriptor)}; wait until it ends, "
                "or choose another --out"
            ) from error
        raise ResumeError(f"cannot lock {shown(path)}: {reason(error)}; choose another --out") from error


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, LIMIT, os.SEEK_SET)  # beyond the text, which others read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _mark() -> bytes:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"vitq": "lock", "process": os.getpid(), "host": socket.gethostname(), "since": started}).encode()


def _holder(descriptor: int) -> str:
    with suppress(OSError, ValueError, LookupError, TypeError):
        os.lseek(descriptor, 0, os.SEEK_SET)
        mark = json.loads(os.read(descriptor, LIMIT))
        return f" (process {mark['process']} on {mark['host']}, since {mark['since']})"
    return ""
