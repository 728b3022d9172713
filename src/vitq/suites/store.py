"""The store of runs: one folder a cell, named by the hash of what it is made of, with its result beside its run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitq.artifact.files import digest, exists, parse_json, read_file, shown, to_json_bytes, write_files
from vitq.errors import SuiteError

RESULT, RUN, LOG = "result.json", "run", "worker.log"
MARK = "result"


class Store:
    """Results under ``root``; a result is written once, whole, and is known by its mark and its hash."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, key: str) -> Path:
        """Return the folder of a cell."""
        return self.root / key[:2] / key[2:]

    def result(self, key: str) -> dict[str, Any] | None:
        """Return the result of a finished cell, None where there is none; SuiteError for a damaged one."""
        path = self.folder(key) / RESULT
        if not exists(path):
            return None
        content = parse_json(read_file(path, error=SuiteError), path, SuiteError)
        row = content.get("row")
        if content.get("vitq") != MARK or not isinstance(row, dict) or content.get("sha256") != _sealed(key, row):
            raise SuiteError(f"{shown(path)} is damaged or of another cell; delete it, and its cell is measured again")
        return row

    def write(self, key: str, row: Mapping[str, Any]) -> None:
        """Keep the result of a cell; SuiteError where it cannot be written."""
        plain = dict(row)
        content = {"vitq": MARK, "key": key, "sha256": _sealed(key, plain), "row": plain}
        write_files(self.folder(key), {RESULT: to_json_bytes(content)}, SuiteError)


def _sealed(key: str, row: Mapping[str, Any]) -> str:
    return digest(to_json_bytes({"key": key, "row": row}))
