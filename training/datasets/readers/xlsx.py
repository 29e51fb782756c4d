"""Excel's tables, row by row. Macros, formulas and links are never run: what was saved as a cell's value is read.

Knows nothing of what columns mean.
"""

from __future__ import annotations

import datetime
import itertools
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import openpyxl

from training.datasets.limits import MAX_COLUMNS, MAX_SHEET_ROWS
from training.datasets.problems import DataError
from training.datasets.readers.packages import check_package
from training.datasets.readers.rows import Flaw, Rows
from training.datasets.readers.table import column_names, table_row


def sheet_names(path: Path) -> list[str]:
    check_package(path)
    workbook = openpyxl.load_workbook(path, read_only=True, data_only=True, keep_links=False)
    try:
        return [sheet.title for sheet in workbook.worksheets]
    finally:
        workbook.close()


def read_xlsx(path: Path, sheet: str, header: bool) -> Rows:
    """Raises DataError `missing_column` where it has no such sheet."""
    check_package(path)
    warnings.simplefilter("ignore")  # of styles and extensions that it does not know, and we do not need
    workbook = openpyxl.load_workbook(path, read_only=True, data_only=True, keep_links=False)
    try:
        sheets = {each.title: each for each in workbook.worksheets}
        if not sheets or (sheet and sheet not in sheets):
            raise DataError("missing_column", f"The workbook has no sheet {sheet!r}.")
        chosen = sheets[sheet] if sheet else next(iter(sheets.values()))
        chosen.reset_dimensions()  # what the file says of its size may be a lie
        yield from _rows(chosen.iter_rows(values_only=True), header)
    finally:
        workbook.close()


def _rows(found: Iterator[Sequence[object]], header: bool) -> Rows:
    names: list[str] = []
    for line, cells in enumerate(itertools.islice(found, MAX_SHEET_ROWS), 1):
        if not any(cell not in (None, "") for cell in cells):
            continue
        values = [_plain(cell) for cell in cells]
        if not names:
            names = column_names(values, header)
            if header:
                continue
        beginning = " | ".join(str(value)[:80] for value in values[:8] if value is not None)
        yield table_row(line, names, values[: MAX_COLUMNS + 1], beginning, 0)
    if next(found, None) is not None:
        yield Flaw(MAX_SHEET_ROWS + 1, "file_too_long", "", f"A sheet has at most {MAX_SHEET_ROWS} rows.")


def _plain(cell: object) -> object:
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    if cell is None or isinstance(cell, str | int | float | bool):
        return cell
    return str(cell)
