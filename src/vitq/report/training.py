"""What a run's log tells of its training: errors before and after of each segment, and its losses."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from vitq.artifact.files import exists, read_file
from vitq.errors import VitqError

LOG = "events.jsonl"


@dataclass(frozen=True)
class Trained:
    """One segment of a sweep ``level``: held-out errors relative to floating point, and losses on the way."""

    name: str
    level: str
    before: float
    after: float
    rolled_back: bool
    losses: tuple[float, ...]


def training_of(folder: Path) -> tuple[Trained, ...]:
    """Return the segments that the last run in ``folder`` trained, in order; none where no log tells.

    A resumed run logs what it reads back, so that all of it stands behind the last beginning of a recipe. Lines that
    are no JSON, or say something else, are left out.
    """
    found: dict[str, Trained] = {}
    for line in _lines(folder / LOG):
        if line.get("kind") == "step" and line.get("number") == 0:
            found = {}
        if line.get("kind") == "segment" and (segment := _segment(line)) is not None:
            found[str(line.get("key", len(found)))] = segment
    return tuple(found.values())


def levels(trained: tuple[Trained, ...]) -> dict[str, tuple[Trained, ...]]:
    """Return the segments by the sweep that they belong to, in order."""
    names = dict.fromkeys(segment.level for segment in trained)
    return {name: tuple(segment for segment in trained if segment.level == name) for name in names}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not exists(path):
        return
    try:
        content = read_file(path).decode("utf-8", "replace")
    except VitqError:
        return
    for text in content.splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):  # half a line that a kill left
            continue
        if isinstance(line, dict):
            yield line


def _segment(line: dict[str, Any]) -> Trained | None:
    try:
        before, after = float(line["before"]), float(line["after"])
        losses = tuple(float(loss) for loss in line.get("losses", ()))
    except (LookupError, TypeError, ValueError):
        return None
    level = str(line.get("key", "")).rpartition("-")[2] or "segment"
    if not (isfinite(before) and isfinite(after)):
        return None
    return Trained(str(line.get("name", "")), level, before, after, line.get("rolled_back") is True, losses)
