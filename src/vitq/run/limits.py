"""Values that options may have: plain data, finite, of a size that a person would write."""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

DEEPEST, MOST, LARGEST = 32, 20_000, 2**31 - 1
"""Levels, values and the largest whole number of one recipe; vitq's own stay below 6 levels and 100 values."""


def check_plain(value: Any) -> None:
    """Raise ValueError where ``value`` is not made of numbers, text, options, and lists and mappings of these."""
    remaining = [(value, 0)]
    seen = 0
    while remaining:
        item, depth = remaining.pop()
        seen += 1
        if depth > DEEPEST or seen > MOST:
            raise ValueError(f"more than {DEEPEST} levels, or more than {MOST:,} values")
        if isinstance(item, Mapping):
            remaining += [(inner, depth + 1) for inner in item.values()]
        elif isinstance(item, list | tuple):
            remaining += [(inner, depth + 1) for inner in item]
        else:
            check_scalar(item)


def check_scalar(item: Any) -> None:
    """Raise ValueError for a number that is not finite or too large, and for what is neither number nor text."""
    if isinstance(item, str) and not _is_unicode(item):
        raise ValueError("text that no file can hold (half a surrogate pair)")
    if isinstance(item, bool | str | BaseModel) or item is None:
        return
    if not isinstance(item, int | float):
        raise ValueError(f"a {type(item).__name__} is no plain value")
    if isinstance(item, int) and abs(item) > LARGEST:
        raise ValueError(f"input should be at most {LARGEST:,}")
    if not math.isfinite(item):
        raise ValueError("input should be a finite number")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
