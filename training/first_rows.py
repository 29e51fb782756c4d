"""The columns and the first rows of a file as it is read now: a person may say otherwise than was detected whether the
first row of a table names its columns. Knows nothing of requests, and opens no file.
"""

from __future__ import annotations

import msgspec

from training.datasets.convert import unused_of
from training.datasets.readers.table import column_names
from training.datasets.sources import Reading
from training.models import SourceFile

_TABLES = ("csv", "xlsx")


def columns_of(file: SourceFile, *, header: bool) -> list[str]:
    """Empty where nothing in it has a name."""
    return _table(file, header)[0]


def unused_columns(file: SourceFile) -> list[str]:
    """Of which nothing is used as the file is read now."""
    if not file.reading:
        return []
    reading = msgspec.convert(file.reading, Reading)
    return unused_of(reading, columns_of(file, header=reading.header))


def first_rows(file: SourceFile) -> tuple[list[str], list[dict[str, str]]]:
    """Columns, and rows by them."""
    return _table(file, (file.reading or {}).get("header", True))


def _table(file: SourceFile, header: bool) -> tuple[list[str], list[dict[str, str]]]:
    found = file.detected or {}
    columns, rows = found.get("columns") or [], found.get("rows") or []
    reading = file.reading or {}
    # Files that were looked at before this was noted down are taken to be read as they were seen.
    seen = found.get("header", reading.get("header", True))
    if seen == header or not columns or reading.get("layout") not in _TABLES:
        return columns, rows
    cells = [list(row.values()) for row in rows]
    if not header:
        names, cells = column_names(columns, False), [columns, *cells]
    else:
        first = cells.pop(0) if cells else []
        names = column_names([*first, *columns[len(first) :]], True)
    return names, [dict(zip(names, row, strict=False)) for row in cells]
