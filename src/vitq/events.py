"""What a run tells the outside: one JSONL log, named warnings, nested progress bars on stderr."""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TextIO

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

HEARTBEAT_SECONDS = 10.0
LOG_WIDTH = 120


class Warned(NamedTuple):
    """A named warning: ``name`` for scripts, ``message`` for people."""

    name: str
    message: str


class Task:
    """One progress bar; ``advance`` moves it and keeps the latest values (``loss=…``) beside it."""

    def __init__(self, events: "Events", label: str, total: int | None, depth: int) -> None:
        self.label, self.total, self.depth = label, total, depth
        self.done = 0
        self.fields: dict[str, Any] = {}
        self.started = time.monotonic()
        self._events = events
        self._logged = self.started
        self._bar = events._add_bar(self)

    def advance(self, n: int = 1, **fields: Any) -> None:
        """Report ``n`` more units done; a line reaches the log at most every ten seconds."""
        self.done += n
        self.fields.update({key: plain(value) for key, value in fields.items()})
        self._events._move_bar(self._bar, n, self.fields)
        now = time.monotonic()
        if now - self._logged >= HEARTBEAT_SECONDS:
            self._logged = now
            self._events.log("progress", **self._state())

    def _state(self) -> dict[str, Any]:
        seconds = round(time.monotonic() - self.started, 3)
        state = {"task": self.label, "done": self.done, "total": self.total, "seconds": seconds}
        return {**state, **{key: value for key, value in self.fields.items() if key not in state}}


def wide_console(stderr: bool = False, quiet: bool = False) -> Console:
    """Return a console as wide as the terminal; in a log file, wide enough for a table of sites."""
    console = Console(stderr=stderr, quiet=quiet, highlight=False)
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(stderr=stderr, quiet=quiet, highlight=False, width=LOG_WIDTH)


class Events:
    """The event log of one run; close it, or use it as a context manager.

    ``path`` gets one JSON object per line, appended, so that a resumed run continues its own log;
    ``console=True`` shows warnings and nested progress on stderr, which leaves stdout to results.
    """

    def __init__(self, path: Path | None = None, console: bool = False) -> None:
        self.path = path
        self.console = wide_console(stderr=True, quiet=not console)
        self.warnings: list[Warned] = []
        self._file = None if path is None else _open_log(path)
        self._progress: Progress | None = None
        self._depth = 0

    def log(self, kind: str, **fields: Any) -> None:
        """Append a line ``{"time": …, "kind": kind, …}``; one-element tensors and paths become plain."""
        if self._file is None:
            return
        record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "kind": kind}
        record |= {key: plain(value) for key, value in fields.items() if key not in record}
        try:
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:  # a full disk must not end the run
            self._file = None
            self.warn("event-log", f"cannot write {self.path}: {error}; the run goes on without its log")

    def warn(self, name: str, message: str) -> None:
        """Log a named warning, show it, collect it in ``warnings``; an identical one is shown only once."""
        self.log("warning", name=name, message=message)
        warned = Warned(name, message)
        if warned not in self.warnings:
            self.warnings.append(warned)
            self.show(f"[yellow]warning[/yellow] {escape(name)}: {escape(message)}")

    def show(self, renderable: RenderableType) -> None:
        """Print text or a rich table above the progress bars."""
        self.console.print(renderable)

    @contextmanager
    def task(self, label: str, total: int | None = None) -> Iterator[Task]:
        """Show a progress bar while the block runs; tasks nest; start, end and last fields are logged."""
        self.log("task", task=label, total=total)
        self._start_progress()
        self._depth += 1
        task = Task(self, label, total, self._depth)
        status = "failed"
        try:
            yield task
            status = "done"
        finally:
            self.log(status, **task._state())
            self._depth -= 1
            self._end_bar(task, status)

    def close(self) -> None:
        """Stop the progress display and close the log."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.log("error", type=type(error).__name__, message=str(error))
        self.close()

    def _start_progress(self) -> None:
        if self._progress is not None or not self.console.is_terminal or self.console.quiet:
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[latest]}"),
            console=self.console,
            transient=True,
            refresh_per_second=4,
        )
        self._progress.start()

    def _add_bar(self, task: Task) -> Any:
        if self._progress is None:
            return None
        description = "  " * (task.depth - 1) + escape(task.label)
        return self._progress.add_task(description, total=task.total, latest="")

    def _move_bar(self, bar: Any, n: int, fields: Mapping[str, Any]) -> None:
        if self._progress is not None and bar is not None:
            self._progress.update(bar, advance=n, latest=escape(_latest(fields)))

    def _end_bar(self, task: Task, status: str) -> None:
        if self._progress is not None and task._bar is not None:
            self._progress.remove_task(task._bar)
            if self._depth == 0:
                self._progress.stop()
                self._progress = None
        if task.depth <= 2:  # deeper levels (the steps of a segment) live only in their bar and in the log
            indent, seconds = "  " * (task.depth - 1), time.monotonic() - task.started
            latest = escape(_latest(task.fields))
            self.show(f"{indent}{escape(task.label)}: {status}, {seconds:.1f} s  {latest}".rstrip())


def _open_log(path: Path) -> TextIO:
    """Open for appending, and end the half line that a killed run may have left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half_line = False
    if path.exists() and path.stat().st_size > 0:
        with path.open("rb") as tail:
            tail.seek(-1, os.SEEK_END)
            half_line = tail.read() != b"\n"
    file = path.open("a", encoding="utf-8")
    if half_line:
        file.write("\n")
    return file


def _latest(fields: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={_short(value)}" for key, value in fields.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def plain(value: Any) -> Any:
    """Turn a value into what JSON can hold; a non-finite float becomes its name, since JSON has none."""
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "size", None) is not None and _elements(value) == 1:
        return plain(item())
    return str(value)


def _elements(value: Any) -> int:
    count = getattr(value, "numel", None)
    return int(count()) if callable(count) else int(value.size)
