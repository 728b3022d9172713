"""Write the tables of the documentation that are made from the code.

    PYTHONPATH=src python scripts/document.py

A test compares: a page whose table is not what this writes is out of date.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitq.artifact.metrics import COSTS, LEFT_OUT, RunMetrics

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "artifact.md"
BEGIN, END = (
    "<!-- table of vitq.artifact.metrics.RunMetrics, written by scripts/document.py -->",
    "<!-- end of table -->",
)

TYPES = {
    int: "integer",
    int | None: "integer",
    float | None: "number",
    Mapping[str, float]: "object: number by block",
    Mapping[str, float] | None: "object: number by metric",
    Mapping[str, Mapping[str, float]] | None: "object: by output, number by metric",
    tuple[Mapping[str, Any], ...] | None: "list of objects",
}


def metrics_table() -> str:
    """Return the rows of ``RunMetrics`` as a table: key, type, what is there if it was not measured, and meaning."""
    rows = ["| key | type | not measured | |", "|---|---|---|---|"]
    for name, field in RunMetrics.model_fields.items():
        kind = TYPES.get(field.annotation, "list of [name, message]")  # type: ignore[call-overload]
        absent = "left out" if name in LEFT_OUT else "null" if field.default is None else ""
        where = " in `run.json`" if name in COSTS else ""
        rows.append(f"| `{name}`{where} | {kind} | {absent} | {field.description} |")
    return "\n".join(rows)


def with_table(page: str) -> str:
    """Return ``page`` with the table between its two marks."""
    parts = re.split(f"({re.escape(BEGIN)}|{re.escape(END)})", page)
    assert len(parts) == 5, f"{PAGE} needs the two marks of the table, once each"
    before, begin, _, end, after = parts
    return f"{before}{begin}\n{metrics_table()}\n{end}{after}"


def main() -> int:
    """Write the page anew."""
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
