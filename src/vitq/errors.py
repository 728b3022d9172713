"""Errors that a user can act on: what is wrong, where, and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

LONGEST = 2_000
"""Letters of a message; in a longer one a stranger's file speaks."""


class VitqError(Exception):
    """Base of every error that vitq raises on purpose; its message is printable, and the middle of a long one is left
    out.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(_readable(message))


class ArgumentError(VitqError):
    """An argument has a type or a value that no verb takes, or one that would be ignored."""


class OutputError(VitqError):
    """A result cannot be written to stdout."""


class DataError(VitqError):
    """Images or labels cannot be used."""


class ModelError(VitqError):
    """A model cannot be found, loaded or captured."""


class GraphError(VitqError):
    """A captured graph does not have the shape that a step needs."""


class RecipeError(VitqError):
    """A recipe, an override or a bit-width is not valid."""


class AllocationError(VitqError):
    """No bits are within a budget, or an allocation lacks what it is made from."""


class CalibrationError(VitqError):
    """A quantizer has no parameters, or its calibration tensor is unusable."""


class ArtifactError(VitqError):
    """A saved model is missing, damaged, or of another schema version."""


class UnsavedError(ArtifactError):
    """A finished model could not be saved: ``model`` is it, to be saved elsewhere."""

    def __init__(self, message: str, model: Any) -> None:
        super().__init__(message)
        self.model = model


class ResumeError(VitqError):
    """A run cannot be resumed with what was given."""


class SuiteError(VitqError):
    """A suite, its store or its golden scores cannot be used."""


class CompareError(VitqError):
    """Cells of a suite have failed, or do not score what they should."""


class ExportError(VitqError):
    """A model cannot be lowered for a target, or its file does not compute what the simulation computes."""


def _readable(message: str) -> str:
    """Return what a terminal can show: control characters and halves of letters are written out."""
    if len(message) > LONGEST:
        message = f"{message[: LONGEST // 2]} … {message[-LONGEST // 2 :]}"
    if message.isprintable():
        return message
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in message)


def first_line(error: BaseException, width: int = 300) -> str:
    """Return the first line of what another's error says, at most ``width`` letters; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:width]


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the option nearest to ``word``, or the list of options if none is near."""
    choices = sorted(options)
    near = get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; choose one of: {', '.join(choices)}"
