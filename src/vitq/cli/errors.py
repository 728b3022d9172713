"""Errors at the edge: one red line, a hint, and an exit code that scripts can use."""

import errno
import functools
import shlex
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ParamSpec

import typer

from vitq.cli.console import flush, note, print_json
from vitq.errors import (
    AllocationError,
    ArgumentError,
    ArtifactError,
    CalibrationError,
    CompareError,
    DataError,
    ExportError,
    GraphError,
    ModelError,
    OutputError,
    RecipeError,
    ResumeError,
    SuiteError,
    VitqError,
)
from vitq.run.streams import silence

UNEXPECTED, BAD_INPUT, RUN_FAILED, ARTIFACT, STOPPED = 1, 2, 3, 4, 130
TRACEBACK_LINES = 6

P = ParamSpec("P")


@dataclass(frozen=True)
class Failure:
    """How an error ends a verb."""

    kind: str
    message: str
    hint: str
    exit_code: int


KNOWN: tuple[tuple[type[VitqError], int, str], ...] = (
    (ArgumentError, BAD_INPUT, "'vitq VERB --help' describes every option of a verb"),
    (AllocationError, BAD_INPUT, "'vitq allocate --help' describes the budgets; docs/allocate.md what they mean"),
    (RecipeError, BAD_INPUT, "'vitq recipes' lists the recipes, 'vitq recipes show NAME' every key of one"),
    (
        DataError,
        BAD_INPUT,
        "images are a folder with labels.csv, a folder of class folders, a flat folder, or a .npz file",
    ),
    (ModelError, BAD_INPUT, "'vitq models PATTERN' lists the models known by name"),
    (ArtifactError, ARTIFACT, "an artifact is the folder that 'vitq quantize --out' wrote"),
    (ResumeError, ARTIFACT, "'vitq quantize --help' says what --out, --resume and --overwrite do"),
    (SuiteError, BAD_INPUT, "docs/compare.md says what is in a suite, in its store and in golden files"),
    (CompareError, RUN_FAILED, "what was measured is kept; docs/compare.md says how a comparison goes on"),
    (ExportError, RUN_FAILED, "'vitq export --help' lists the targets; docs/export.md says what each can run"),
    (CalibrationError, RUN_FAILED, "try other calibration images, more of them (--limit), or another recipe"),
    (GraphError, RUN_FAILED, "this model's graph is not understood; please report it with the model's name"),
    (VitqError, RUN_FAILED, ""),
)

WRITING = (OSError, ArtifactError, ResumeError, ExportError)
"""Errors that a full disk may be behind."""


def guarded(verb: Callable[P, None]) -> Callable[P, None]:
    """Wrap a verb so that every error is printed (as JSON after ``--json``) and ends in its exit code."""

    @functools.wraps(verb)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            verb(*args, **kwargs)
            flush()
        except typer.Exit:
            raise
        except BrokenPipeError:  # the reader of a pipe has left: `vitq models | head`
            silence(sys.stdout)
        except KeyboardInterrupt:
            _end(_stopped(resumable="resume" in kwargs), kwargs)
        except Exception as error:
            failure = describe(error)
            if failure.exit_code == UNEXPECTED:
                note("".join(traceback.format_exception(error, limit=-TRACEBACK_LINES)).rstrip(), style="dim")
            _end(failure, kwargs)

    return wrapper


def describe(error: Exception) -> Failure:
    """Return what is said about an error."""
    kind, message = type(error).__name__, str(error) or type(error).__name__
    if isinstance(error, WRITING) and _is_disk_full(error):
        hint = "free some space or choose another --out; what is already computed is kept, go on with --resume"
        return Failure("DiskFull", message, hint, RUN_FAILED)
    for known, exit_code, hint in KNOWN:
        if isinstance(error, known):
            return Failure(kind, message, hint, exit_code)
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
        hint = "use fewer calibration images (--limit), a smaller model, or another --device"
        return Failure("OutOfMemory", message, hint, RUN_FAILED)
    return Failure(kind, message, "this is a bug in vitq or in a library below it; please report it", UNEXPECTED)


def _is_disk_full(error: BaseException | None) -> bool:
    """Tell whether a full disk is behind ``error``, whatever it was turned into on its way."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False


def _stopped(resumable: bool) -> Failure:
    if not resumable:
        return Failure("Interrupted", "stopped", "", STOPPED)
    arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
    command = shlex.join(["vitq", *arguments, "--resume"])
    return Failure("Interrupted", "stopped; resume with --resume", command, STOPPED)


def _end(failure: Failure, options: dict[str, Any]) -> None:
    if options.get("as_json") and failure.kind != OutputError.__name__:
        error = {"type": failure.kind, "message": failure.message, "hint": failure.hint}
        with suppress(BrokenPipeError, OutputError):
            print_json({"error": {**error, "exit_code": failure.exit_code}})
    else:
        note(f"{failure.kind}: {failure.message}", style="bold red")
        if failure.hint:
            note(f"hint: {failure.hint}")
    raise typer.Exit(failure.exit_code)
