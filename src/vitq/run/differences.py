"""What differs between two nested values, in words: the places, with the old and the new value of each."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

WIDTH = 60
MOST = 12
BEFORE = 8
ABSENT = object()


def differences(known: Any, wanted: Any) -> list[str]:
    """Return ``path: was old, now new`` for every value that differs; long values are cut where they differ."""
    found = list(_walk(known, wanted, ""))
    rest = [f"and {len(found) - MOST} more"] if len(found) > MOST else []
    return found[:MOST] + rest


def _walk(known: Any, wanted: Any, path: str) -> Iterator[str]:
    if isinstance(known, Mapping) and isinstance(wanted, Mapping):
        for key in sorted({*known, *wanted}, key=str):
            yield from _walk(known.get(key, ABSENT), wanted.get(key, ABSENT), f"{path}.{key}" if path else str(key))
    elif isinstance(known, list) and isinstance(wanted, list):
        for number in range(max(len(known), len(wanted))):
            old, new = (side[number] if number < len(side) else ABSENT for side in (known, wanted))
            yield from _walk(old, new, f"{path}[{number}]")
    elif (old := _text(known)) != (new := _text(wanted)):
        start = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
        yield f"{path or 'all'}: was {_cut(old, start)}, now {_cut(new, start)}"


def _text(value: Any) -> str:
    return "absent" if value is ABSENT else json.dumps(value, ensure_ascii=False)


def _cut(text: str, start: int) -> str:
    """Cut ``text`` to ``WIDTH`` around ``start``, where it differs from its counterpart."""
    begin = 0 if start < WIDTH - BEFORE else start - BEFORE
    end = begin + WIDTH
    return f"{'…' if begin else ''}{text[begin:end]}{'…' if end < len(text) else ''}"
