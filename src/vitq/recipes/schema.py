"""What a step's options are called: dotted keys for messages and suggestions."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel

INDEX = re.compile("[0-9]{1,9}")
"""A position in a list, as part of a dotted key."""

LONGEST = 120
"""Characters of a value that a message shows."""


def option_keys(owner: type) -> list[str]:
    """Return the dotted keys of a step or of any options class inside it, in the order of definition."""
    return [".".join(path) for path in _paths(owner, ())]


def suggestion(key: str, valid: Sequence[str]) -> str:
    """Return what to say of an unknown dotted key: the same one elsewhere, the nearest beside it, or all."""
    parent, _, leaf = key.rpartition(".")
    beside = {_leaf(option): option for option in valid if option.rpartition(".")[0] == parent}
    near = get_close_matches(leaf, beside, n=1, cutoff=0.5)
    meant = [option for option in valid if _leaf(option) == leaf] or [beside[name] for name in near]
    if meant:
        return f"; did you mean {one_of(meant)}?"
    return f"; choose one of: {', '.join(beside)}" if beside else ""


def shorten(text: str) -> str:
    """Return the beginning of a text that is too long for a message."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def one_of(keys: Iterable[str]) -> str:
    """Return ``'a' or 'b'``."""
    return " or ".join(f"'{key}'" for key in keys)


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _paths(owner: type, above: tuple[type, ...]) -> Iterator[tuple[str, ...]]:
    for name, annotation in _fields(owner):
        yield (name,)
        for inner in _classes(annotation):
            if inner not in above:
                yield from ((name, *rest) for rest in _paths(inner, (*above, owner)))


def _fields(owner: type) -> list[tuple[str, Any]]:
    if issubclass(owner, BaseModel):
        return [(field.alias or name, field.annotation) for name, field in owner.model_fields.items()]
    return list(get_type_hints(owner).items())


def _classes(annotation: Any) -> Iterator[type]:
    """Yield the options classes that an annotation mentions: inside Optional, unions, tuples, mappings."""
    if isinstance(annotation, type) and (is_dataclass(annotation) or issubclass(annotation, BaseModel)):
        yield annotation
    for part in get_args(annotation):
        yield from _classes(part)


def readable_path(location: Sequence[str | int], options: object, keep_last: bool) -> tuple[str, ...]:
    """Return pydantic's error location without the names of union members: only keys that the user wrote.

    ``keep_last`` keeps the last part although it is not there (a missing key).
    """
    path: list[str] = []
    here: Any = options
    for place, part in enumerate(location):
        is_key = isinstance(here, Mapping) and part in here
        is_position = isinstance(here, list | tuple) and isinstance(part, int) and part < len(here)
        if is_key or is_position:
            here = here[part]
        elif not (keep_last and place == len(location) - 1):
            continue
        path.append(str(part))
    return tuple(path)
