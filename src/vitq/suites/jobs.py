"""What a worker is given and how it ends; this module imports nothing heavy, for it travels to every worker."""

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vitq.errors import VitqError

FAILED = 3
"""Exit code of a process whose job failed: it said why, and would fail again."""


@dataclass(frozen=True)
class Job:
    """What a worker is given; ``store`` is a folder that it can write, on its own machine where that is another."""

    key: str
    name: str
    call: Mapping[str, Any] = field(repr=False, compare=False)
    store: str
    device: str = "auto"
    threads: int | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a job ended: with a ``row``, with an ``error`` that would come again, or because its worker ``died``."""

    job: Job
    row: Mapping[str, Any] | None = None
    error: str = ""
    died: bool = False


Work = Callable[[Job], dict[str, Any]]


def answer(work: Work, given: Mapping[str, Any]) -> dict[str, Any]:
    """Do a job that came as plain data: ``{"row": …}``, or ``{"error": …}`` of what failed."""
    try:
        return {"row": work(Job(**given))}
    except (Exception, KeyboardInterrupt) as error:
        return {"error": said(error)}


def said(error: BaseException) -> str:
    """Return what is told of a cell that failed: a message, of a bug its last lines too."""
    if isinstance(error, VitqError):
        return f"{type(error).__name__}: {error}"
    return "".join(traceback.format_exception(error, limit=-4)).rstrip()
