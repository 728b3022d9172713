"""What the arguments of the verbs are read as: each function returns a value, or raises TypeError or ValueError.

What is not there (a folder, a file) is an error of its kind: DataError, ModelError.
"""

import operator
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from vitq.artifact.artifact import Artifact
from vitq.bits import FLOATING_POINT, AverageBits, Bits, BitTable
from vitq.data.noise import GENERATED
from vitq.data.splits import is_split
from vitq.errors import DataError, ModelError
from vitq.models import LoadedModel, Preprocessing
from vitq.recipes.bit_table import is_table, read_table
from vitq.run.limits import check_plain
from vitq.tasks import TASKS, Task

R = TypeVar("R")

LONGEST_PATH, LONGEST_NAME = 4096, 255
"""Of a path and of each name in it, in bytes: Linux's limits, the widest there are."""


def text(value: Any) -> str:
    """Return a name."""
    if not isinstance(value, str):
        raise TypeError
    if not value.strip():
        raise ValueError
    if "\0" in value or len(value) > LONGEST_PATH:
        raise ValueError("too long, or with a character that no name has")
    return str(value)


def path(value: Any) -> str | Path:
    """Return a path as it was given, of a length that there is."""
    given = text(os.fspath(value))
    raw = os.fsencode(given)
    if len(raw) > LONGEST_PATH or max(map(len, raw.split(os.fsencode(os.sep)))) > LONGEST_NAME:
        raise ValueError("too long for a path")
    return given if isinstance(value, str) else Path(given)


def folder_path(value: Any) -> Path:
    """Return a path."""
    return Path(path(value))


def model(value: Any) -> Any:
    """Return a module, or a model's name or path as text."""
    if isinstance(value, nn.Module | LoadedModel):
        return value
    return str(path(value))


def baseline(value: Any) -> Any:
    """Return True or False, or a model."""
    return flag(value) if isinstance(value, bool | np.bool_) else model(value)


def images(value: Any) -> Any:
    """Return a path that exists, the word for images that are to be made, or images themselves."""
    if value is None or isinstance(value, bytes | bool | int | float):
        raise TypeError
    if isinstance(value, str | os.PathLike):
        place = Path(path(value))
        if not os.path.exists(place) and not is_split(place):  # noqa: PTH110 - False, not an error, where it is hidden
            if value in GENERATED:
                return value
            raise DataError(f"'{place}': no such folder or file")
        return place
    return value


def run(value: Any) -> Path | Artifact:
    """Return an artifact, that of a quantized model, or its path."""
    artifact = getattr(value, "artifact", value)
    return artifact if isinstance(artifact, Artifact) else Path(path(value))


def weights(value: Any) -> str | Path:
    """Return the path of a file that exists, or 'random'."""
    place = path(value)
    if place != "random" and not os.path.exists(place):  # noqa: PTH110
        raise ModelError(f"weights '{place}': no such file")
    return place


def bits(value: Any) -> Bits:
    """Return bits."""
    return value if isinstance(value, Bits) else Bits.parse(text(value))


def bits_or_table(value: Any) -> Bits | BitTable:
    """Return bits, or a bit table, from its file too."""
    if isinstance(value, Bits | BitTable):
        return value
    if isinstance(value, os.PathLike) or is_table(text(value)):
        return read_table(path(value))
    return Bits.parse(text(value))


def average_bits(value: Any) -> AverageBits:
    """Return average bits, one number for both kinds of them."""
    if isinstance(value, AverageBits):
        return value
    if isinstance(value, str):
        return AverageBits.parse(value)
    number = positive(value)
    return AverageBits(number, number)


def whole(low: int, high: int) -> Callable[[Any], int]:
    """Return what reads a whole number, Python's or NumPy's."""

    def read(value: Any) -> int:
        if isinstance(value, bool | np.bool_ | torch.Tensor):
            raise TypeError
        number = operator.index(value)
        if not low <= number <= high:
            raise ValueError
        return number

    return read


def positive(value: Any) -> float:
    """Return a finite number above 0."""
    if isinstance(value, bool | np.bool_ | str | torch.Tensor):
        raise TypeError
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


def keep(value: Any) -> dict[str, int]:
    """Return bits by globs."""
    return {text(pattern): width(own) for pattern, own in mapping(value).items()}


def candidates(value: Any) -> tuple[int, ...]:
    """Return bits, ascending, each once."""
    return tuple(sorted(set(several(width)(value))))


def width(value: Any) -> int:
    """Return bits: 2 to 8, or 32."""
    number = whole(2, FLOATING_POINT)(value)
    if 8 < number < FLOATING_POINT:
        raise ValueError
    return number


def device(value: Any) -> str:
    """Return a device's name."""
    return str(value) if isinstance(value, torch.device) else text(value)


def flag(value: Any) -> bool:
    """Return True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError
    return bool(value)


def preprocessing(value: Any) -> Any:
    """Return preprocessing, or values of it that are checked."""
    if not isinstance(value, Preprocessing):
        Preprocessing.check_values(mapping(value))
    return value


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a mapping of text to plain data."""
    if not isinstance(value, Mapping):
        raise TypeError
    if not all(isinstance(key, str) for key in value):
        raise ValueError("a key is not text")
    for key, item in value.items():
        try:
            check_plain(item)
        except ValueError as error:
            raise ValueError(f"'{key[:80]}': {error}") from None
    return value


def several(read: Callable[[Any], R]) -> Callable[[Any], tuple[R, ...]]:
    """Return what reads one value, or a list or tuple of them, each by ``read``."""

    def read_all(values: Any) -> tuple[R, ...]:
        given = values if isinstance(values, list | tuple) else [values]
        if not given:
            raise ValueError
        return tuple(map(read, given))

    return read_all


def runs(value: Any) -> tuple[Path | Artifact, ...] | dict[str, Path | Artifact]:
    """Return artifacts or their paths, by name where they have names."""
    if not isinstance(value, Mapping):
        return several(run)(value)
    if not value:
        raise ValueError
    return {text(name): run(own) for name, own in value.items()}


def task(value: Any) -> str:
    """Return the name of a registered task, from its class too."""
    if isinstance(value, type) and issubclass(value, Task):
        name = next((name for name, kind in TASKS.items() if kind is value), None)
        if name is None:
            raise ValueError("register it first: vitq.tasks.register_task")
        return name
    return next(name for name, kind in TASKS.items() if kind is TASKS[text(value)])
