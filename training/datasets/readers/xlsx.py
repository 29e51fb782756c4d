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

from training.datasets.limits import MAX_SHEET_ROWS
from training.datasets.problems import DataError
from training.datasets.readers.packages import check_package
from training.datasets.readers.rows import Flaw, Rows, Sheets
from training.datasets.readers.table import column_names, table_row

_LOOKED_AT = 1000  # rows of a sheet, for anything in them


def read_xlsx(path: Path, sheet: str, header: bool) -> Rows:
    """Where no sheet is asked for, the first that has anything. Raises DataError `missing_column` where it has none so
    called.
    """
    check_package(path)
    warnings.simplefilter("ignore")  # of styles and extensions that it does not know, and we do not need
    with path.open("rb") as file:  # of a path, it would look at the name's ending
        workbook = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
        for each in workbook.worksheets:
            each.reset_dimensions()  # what the file says of its size may be a lie
        sheets = {each.title: each for each in workbook.worksheets}
        if not sheets or (sheet and sheet not in sheets):
            raise DataError("missing_column", f"The workbook has no sheet {sheet!r}.")
        filled = _filled(workbook)
        chosen = sheet or next(iter(filled), next(iter(sheets)))
        yield Sheets([chosen, *(title for title in filled if title != chosen)])
        yield from _rows(sheets[chosen].iter_rows(values_only=True), header)


def _filled(workbook: openpyxl.Workbook) -> list[str]:
    """In the workbook's order, but what people see before what is hidden from them."""
    ordered = sorted(workbook.worksheets, key=lambda each: each.sheet_state != "visible")
    return [each.title for each in ordered if _has_anything(each.iter_rows(values_only=True))]


def _has_anything(rows: Iterator[Sequence[object]]) -> bool:
    some = itertools.islice(rows, _LOOKED_AT)
    return any(cell not in (None, "") for cells in some for cell in cells)


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
        yield table_row(line, names, values, beginning, 0)
    if next(found, None) is not None:
        yield Flaw(MAX_SHEET_ROWS + 1, "file_too_long", "", f"A sheet has at most {MAX_SHEET_ROWS} rows.")


def _plain(cell: object) -> object:
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    if cell is None or isinstance(cell, str | int | float | bool):
        return cell
    return str(cell)
