"""Any value as what JSON can hold."""

import math
from collections.abc import Mapping
from typing import Any


def jsonable(value: Any) -> Any:
    """Turn a value into what JSON can hold; a non-finite float becomes its name, since JSON has none."""
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "size", None) is not None and _elements(value) == 1:
        return jsonable(item())
    return str(value)


def _elements(value: Any) -> int:
    count = getattr(value, "numel", None)
    return int(count()) if callable(count) else int(value.size)
