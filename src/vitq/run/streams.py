"""Standard streams whose reader may leave: what is said to people is dropped then, and the work goes on."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO


class Lasting:
    """A text stream that forgets what can no longer be written: its reader has gone, its disk is full, it is closed."""

    def __init__(self, stream: Callable[[], TextIO | None]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write ``text`` if that is still possible."""
        stream = self._stream()
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream if that is still possible."""
        stream = self._stream()
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.flush()

    def isatty(self) -> bool:
        """Tell whether a person reads it."""
        stream = self._stream()
        with suppress(ValueError):  # closed
            return stream is not None and stream.isatty()
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream(), name)


def lasting_stderr() -> Lasting:
    """Return ``sys.stderr``, whatever that is when it is written to."""
    return Lasting(lambda: sys.stderr)


def open_missing() -> None:
    """Give a process that was started without stdin, stdout or stderr an empty one.

    Else the next file that is opened takes its number, and gets what is meant for the stream.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def silence(stream: TextIO | None) -> None:
    """Lead a stream that cannot be written to nowhere, so that Python does not fail to flush it when it ends."""
    if stream is None:
        return
    with suppress(OSError, ValueError):
        empty = os.open(os.devnull, os.O_WRONLY)
        os.dup2(empty, stream.fileno())
        os.close(empty)
