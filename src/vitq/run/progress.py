"""Nested progress bars on a terminal, and the console that they share with text."""

import os
from collections.abc import Mapping
from typing import Any, TextIO, cast

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vitq.run.streams import lasting_stderr

LOG_WIDTH = 120
NARROWEST, WIDEST = 60, 400
"""Columns: in fewer a table's words disappear."""


class LastingConsole(Console):
    """A console that leaves a broken pipe to its caller, where rich's own ends the process."""

    def on_broken_pipe(self) -> None:
        """Raise the BrokenPipeError again."""
        raise


def wide_console(stderr: bool = False, quiet: bool = False) -> Console:
    """Return a console as wide as the terminal; in a log file, wide enough for a table of sites.

    On stderr, what can no longer be written is dropped.
    """
    file = cast(TextIO, lasting_stderr()) if stderr else None
    console = LastingConsole(file=file, quiet=quiet, highlight=False)
    width = console.width if console.is_terminal or "COLUMNS" in os.environ else LOG_WIDTH
    return LastingConsole(file=file, quiet=quiet, highlight=False, width=min(max(width, NARROWEST), WIDEST))


class Bars:
    """One display for all bars of a run; it lives while any bar does, and only on a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.display: Progress | None = None

    def add(self, label: str, total: int | None, depth: int) -> TaskID | None:
        """Show a bar, indented by its depth (1 is outermost); None where there is no terminal."""
        if not self.console.is_terminal or self.console.quiet:
            return None
        if self.display is None:
            self.display = _display(self.console)
            self.display.start()
        return self.display.add_task("  " * (depth - 1) + escape(label), total=total, latest="")

    def move(self, bar: TaskID | None, n: int, fields: Mapping[str, Any]) -> None:
        """Advance a bar and show the latest values beside it."""
        if self.display is not None and bar is not None:
            self.display.update(bar, advance=n, latest=escape(latest(fields)))

    def remove(self, bar: TaskID | None) -> None:
        """Take a bar away; the display goes with the last one."""
        if self.display is not None and bar is not None:
            self.display.remove_task(bar)
            if not self.display.tasks:
                self.stop()

    def stop(self) -> None:
        """Stop the display."""
        if self.display is not None:
            self.display.stop()
            self.display = None


def latest(fields: Mapping[str, Any]) -> str:
    """Write the latest values of a task in one line, such as ``loss=0.25``."""
    return " ".join(f"{key}={_short(value)}" for key, value in fields.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _display(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[latest]}"),
        console=console,
        transient=True,
        refresh_per_second=4,
    )
