"""Which files are vitq's own: each kind carries a mark, and nothing without one is ever overwritten or deleted."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from vitq.artifact.files import JSON_BYTES, exists, parse_json, read_file, shown
from vitq.errors import ArtifactError, VitqError

HEAD_BYTES = 4096


def require_own(folder: Path, names: Iterable[str]) -> None:
    """Raise ArtifactError where ``folder`` holds a file of one of ``names`` that vitq did not write."""
    for name in names:
        path = folder / name
        if exists(path) and not is_own(path):
            raise ArtifactError(
                f"{shown(path)} was not written by vitq (or is damaged), so it is not overwritten: "
                "move it away, or choose another folder"
            )


def is_own(path: Path) -> bool:
    """Tell whether ``path`` is a file that vitq wrote under that name."""
    try:
        return exists(path) and path.name in MARKS and MARKS[path.name](path)
    except VitqError:
        return False


def _has_keys(*keys: str) -> Callable[[Path], bool]:
    return lambda path: set(keys) <= _object(path).keys()


def _is_metrics(path: Path) -> bool:
    """Metrics have no mark of their own; they are vitq's beside its configuration, which is written before them."""
    return "size_bytes" in _object(path) and is_own(path.parent / "config.json")


def _is_model(path: Path) -> bool:
    head = _head(path, 8)
    length = int.from_bytes(head, "little")
    if len(head) < 8 or length > JSON_BYTES:
        return False
    try:
        header = json.loads(_head(path, 8 + length)[8:])
        return bool(header["__metadata__"]["format"] == "vitq")
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def _starts_with(text: bytes) -> Callable[[Path], bool]:
    """An empty file counts too: a kill may leave one, and nothing is lost with it."""
    return lambda path: _head(path, len(text)) in (text, b"")


def _object(path: Path) -> dict[str, Any]:
    return parse_json(read_file(path), path)


def _head(path: Path, count: int) -> bytes:
    if not path.is_file():
        raise ArtifactError(f"{shown(path)} is no regular file")
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise ArtifactError(f"cannot read {shown(path)}: {error.strerror}") from error


MARKS: Mapping[str, Callable[[Path], bool]] = {
    "config.json": _has_keys("schema_version", "preprocessing", "recipe", "sites"),
    "graph.json": _has_keys("input", "module_stacks", "nodes"),
    "model.safetensors": _is_model,
    "metrics.json": _is_metrics,
    "seal.json": _has_keys("vitq", "sha256"),
    "run.json": lambda path: _object(path).keys() <= {"seconds", "peak_memory_bytes"},
    "report.html": lambda path: b'<meta name="generator" content="vitq">' in _head(path, HEAD_BYTES),
    "report.json": lambda path: _object(path).get("vitq") == "report",
    "bench.json": lambda path: _object(path).get("vitq") == "bench",
    "events.jsonl": _starts_with(b'{"time": "'),
}
"""By file name: how vitq knows a file again that it wrote."""
