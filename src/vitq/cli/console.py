"""Where a verb writes: results to stdout, everything else to stderr."""

import io
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO, cast

from rich.console import Console, RenderableType

from vitq.errors import OutputError
from vitq.run.jsonable import jsonable
from vitq.run.progress import wide_console
from vitq.run.streams import lasting_stderr, silence


def show(renderable: RenderableType) -> None:
    """Print a result for people to stdout."""
    with _results():
        wide_console().print(renderable)


def write(text: str) -> None:
    """Print a result to stdout as it is."""
    with _results():
        print(text)


def print_json(data: Mapping[str, Any]) -> None:
    """Print one JSON object to stdout."""
    write(json.dumps(jsonable(data), indent=2, ensure_ascii=False))


def flush() -> None:
    """Write out what is still to be written of the results."""
    with _results():
        sys.stdout.flush()


def note(text: str, style: str | None = None) -> None:
    """Print one remark to stderr, unwrapped, so that paths and commands can be copied."""
    console = Console(file=cast(TextIO, lasting_stderr()), highlight=False)
    console.print(text, style=style, markup=False, soft_wrap=True)


@contextmanager
def _results() -> Iterator[None]:
    """Write to stdout, if there is one; raise OutputError, or BrokenPipeError where its reader has left."""
    if sys.stdout is None or sys.stdout.closed:
        sys.stdout = io.StringIO()
    try:
        yield
    except BrokenPipeError:
        silence(sys.stdout)
        raise
    except OSError as error:
        silence(sys.stdout)
        reason = error.strerror or type(error).__name__
        raise OutputError(
            f"the result cannot be written to stdout: {reason}; files that were saved are there"
        ) from error
