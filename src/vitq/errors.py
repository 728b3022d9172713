"""Errors that a user can act on: what is wrong, where, and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class VitqError(Exception):
    """Base of every error that vitq raises on purpose."""


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


class CalibrationError(VitqError):
    """A quantizer has no parameters, or its calibration tensor is unusable."""


class ArtifactError(VitqError):
    """A saved model is missing, damaged, or of another schema version."""


class ResumeError(VitqError):
    """A run cannot be resumed with what was given."""


class ExportError(VitqError):
    """A model cannot be lowered for a target, or its file does not compute what the simulation computes."""


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the option nearest to ``word``, or the list of options if none is near."""
    choices = sorted(options)
    near = get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; choose one of: {', '.join(choices)}"
