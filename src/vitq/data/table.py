"""labels.csv: which file has which class index."""

import codecs
import csv
import io
from pathlib import Path

from vitq.data.files import read_file, reason
from vitq.data.names import shown
from vitq.errors import DataError

_DIGITS = 9
"""Digits of the largest class index."""


def read_table(table: Path, labels: bool = True) -> list[tuple[str, int | None]]:
    """Return (filename, class index) of each row, without looking at the labels where they are not wanted.

    The first line names the columns ``filename,label``; UTF-8, or UTF-16 with its mark. DataError names file and line
    of anything else.
    """
    where = f"'{shown(table)}'"
    reader = csv.DictReader(io.StringIO(_text(read_file(table, where), where), newline=""), skipinitialspace=True)
    rows: list[tuple[str, int | None]] = []
    try:
        columns = reader.fieldnames or []
        if "filename" not in columns or (labels and "label" not in columns):
            raise DataError(
                f"{where}: the first line must name the columns filename,label; it has {shown(','.join(columns))}"
            )
        for row in reader:
            name, label = (row["filename"] or "").strip(), (row.get("label") or "").strip()
            usable = not labels or (label.isdecimal() and len(label) <= _DIGITS)
            if not name or "\0" in name or not usable:
                raise DataError(
                    f"{where}, line {reader.line_num}: expected filename,class index, not '{shown(f'{name},{label}')}'"
                )
            rows.append((name, int(label) if labels else None))
    except csv.Error as error:
        raise DataError(f"{where}, line {reader.line_num + 1}: {reason(error)}") from error
    return rows


def _text(content: bytes, where: str) -> str:
    sixteen = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if sixteen else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{where}, line {line}: not UTF-8 ({shown(error.reason)}); save the table as UTF-8") from error
