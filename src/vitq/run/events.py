"""What a run tells the outside: one JSONL log, named warnings, nested progress bars on stderr."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TextIO

from rich.console import RenderableType
from rich.markup import escape

from vitq.run.jsonable import jsonable
from vitq.run.progress import Bars, wide_console
from vitq.run.task import ProgressTask


class Warned(NamedTuple):
    """A named warning: ``name`` for scripts, ``message`` for people."""

    name: str
    message: str


class Events:
    """The event log of one run; close it, or use it as a context manager.

    ``path`` gets one JSON object per line, appended, so that a resumed run continues its own log;
    ``console=True`` shows warnings and nested progress on stderr, which leaves stdout to results.
    """

    def __init__(self, path: Path | None = None, console: bool = False) -> None:
        self.path = path
        self.console = wide_console(stderr=True, quiet=not console)
        self.warnings: list[Warned] = []
        self._file: TextIO | None = None
        self._bars = Bars(self.console)
        self._depth = 0
        if path is not None:
            try:
                self._file = _open_log(path)
            except OSError as error:
                self._lose_log(error)

    def log(self, kind: str, **fields: Any) -> None:
        """Append a line ``{"time": …, "kind": kind, …}``; one-element tensors and paths become plain."""
        if self._file is None:
            return
        record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "kind": kind}
        record |= {key: jsonable(value) for key, value in fields.items() if key not in record}
        try:
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:  # a full disk must not end the run
            self._lose_log(error)

    def warn(self, name: str, message: str) -> None:
        """Log a named warning, show it, collect it in ``warnings``; an identical one is shown only once."""
        message = message.encode("utf-8", "backslashreplace").decode()  # names of files need not be UTF-8
        self.log("warning", name=name, message=message)
        warned = Warned(name, message)
        if warned not in self.warnings:
            self.warnings.append(warned)
            self.show(f"[yellow]warning[/yellow] {escape(name)}: {escape(message)}")

    def show(self, renderable: RenderableType) -> None:
        """Print text or a rich table above the progress bars."""
        self.console.print(renderable)

    @contextmanager
    def task(self, label: str, total: int | None = None, unit: str | None = None) -> Iterator[ProgressTask]:
        """Show a progress bar while the block runs; tasks nest; start, end and last fields are logged."""
        self.log("task", task=label, total=total)
        self._depth += 1
        task = ProgressTask(label, total, self._depth, self._bars, self.log, unit)
        status = "failed"
        try:
            yield task
            status = "done"
        finally:
            self._depth -= 1
            task.end(status)
            if task.depth <= 2:  # deeper levels (the steps of a segment) live only in their bar and in the log
                self.show(task.line(status))

    def beside(self, label: str, total: int | None = None) -> ProgressTask:
        """Show a bar below the task at work, beside others of its kind; whoever asked for it ends it."""
        return ProgressTask(label, total, self._depth + 1, self._bars, self.log)

    def close(self) -> None:
        """Stop the progress display and close the log."""
        self._bars.stop()
        if self._file is not None:
            with suppress(OSError):  # a line that a full disk refused is written again here
                self._file.close()
            self._file = None

    def _lose_log(self, error: OSError) -> None:
        self._file = None
        self.warn("event-log", f"cannot write {self.path}: {error.strerror}; the run goes on without its log")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.log("error", type=type(error).__name__, message=str(error))
        self.close()


def _open_log(path: Path) -> TextIO:
    """Open for appending, and end the half line that a killed run may have left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half_line = False
    if path.exists() and path.stat().st_size > 0:
        with path.open("rb") as tail:
            tail.seek(-1, os.SEEK_END)
            half_line = tail.read() != b"\n"
    file = path.open("a", encoding="utf-8", errors="backslashreplace")
    if half_line:
        file.write("\n")
    return file
