"""One task of a run: its bar, its latest values, its lines in the log."""

import time
from collections.abc import Callable
from typing import Any

from rich.markup import escape

from vitq.run.jsonable import jsonable
from vitq.run.progress import Bars, latest

HEARTBEAT_SECONDS = 10.0


class ProgressTask:
    """One progress bar; ``advance`` moves it and keeps the latest values (``loss=…``) beside it.

    With a ``unit`` (``images``) one of them is how many are done in a second. ``log`` is called with a kind and fields:
    at most every ten seconds, and at the end.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        depth: int,
        bars: Bars,
        log: Callable[..., None],
        unit: str | None = None,
    ) -> None:
        self.label, self.total, self.depth, self.unit = label, total, depth, unit
        self.done = 0
        self.fields: dict[str, Any] = {}
        self._bars, self._log = bars, log
        self._bar = bars.add(label, total, depth)
        self._started = self._logged = time.monotonic()

    def advance(self, n: int = 1, **fields: Any) -> None:
        """Report ``n`` more units done."""
        self.done += n
        now = time.monotonic()
        self.fields.update({key: jsonable(value) for key, value in fields.items()})
        if self.unit is not None and now > self._started:
            self.fields[f"{self.unit}/s"] = self.done / (now - self._started)
        self._bars.move(self._bar, n, self.fields)
        if now - self._logged >= HEARTBEAT_SECONDS:
            self._logged = now
            self._log("progress", **self._state())

    def end(self, status: str) -> None:
        """Log how the task ended and take its bar away."""
        self._log(status, **self._state())
        self._bars.remove(self._bar)

    def line(self, status: str) -> str:
        """Return what stays on the screen of an ended task, as markup."""
        indent, seconds = "  " * (self.depth - 1), time.monotonic() - self._started
        return f"{indent}{escape(self.label)}: {status}, {seconds:.1f} s  {escape(latest(self.fields))}".rstrip()

    def _state(self) -> dict[str, Any]:
        seconds = round(time.monotonic() - self._started, 3)
        state = {"task": self.label, "done": self.done, "total": self.total, "seconds": seconds}
        return {**state, **{key: value for key, value in self.fields.items() if key not in state}}
