"""Excel's tables, row by row. Macros, formulas and links are never run: what was saved as a cell's value is read.

Knows nothing of what columns mean.
"""

from __future__ import annotations

import datetime
import itertools
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openpyxl

from training.datasets.layouts import titles_above
from training.datasets.limits import MAX_SHEET_ROWS
from training.datasets.problems import DataError
from training.datasets.readers.packages import check_package, open_package
from training.datasets.readers.rows import Flaw, NoValue, Rows, Sheets
from training.datasets.readers.table import column_names, table_row

_LOOKED_AT = 1000  # rows of a sheet, for anything in them
_LIST = 5  # rows at least of a table with one column
_FIRST = 50  # rows, for the columns' names
_CHUNK = 2**20
_FORMULA = re.compile(rb"<(?:\w{1,9}:)?f[ />]")
_ERROR = re.compile(r"#(?:N/A|(?:REF|VALUE|DIV/0|NULL|NUM|SPILL|CALC|FIELD)!|NAME\?|GETTING_DATA)")


def read_xlsx(path: Path, sheet: str, header: bool) -> Rows:
    """Where no sheet is asked for, the first with anything in it. Raises DataError `missing_column` where it has none
    called so.
    """
    check_package(path)
    warnings.simplefilter("ignore")  # of styles and extensions that it does not know, and we do not need
    with path.open("rb") as file:  # of a path, it would look at the name's ending
        workbook = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
        _measure_anew(workbook)
        sheets = {each.title: each for each in workbook.worksheets}
        if not sheets or (sheet and sheet not in sheets):
            raise DataError("missing_column", f"The workbook has no sheet {sheet!r}.")
        filled = _filled(workbook)
        chosen = sheet or next((title for title in sheets if title in filled), next(iter(sheets)))
        yield Sheets([chosen, *(title for title in filled if title != chosen)], next(iter(filled), chosen))
        if _has_formulas(path):
            yield from _rows(_with_formulas(path, workbook, chosen), header)
        else:
            yield from _rows(sheets[chosen].iter_rows(values_only=True), header)


def _measure_anew(workbook: openpyxl.Workbook) -> None:
    for sheet in workbook.worksheets:
        sheet.reset_dimensions()  # what the file says of its size may be a lie


def _filled(workbook: openpyxl.Workbook) -> list[str]:
    """Likely tables first: what people see before what is hidden from them, several rows and columns before a cover."""
    sizes = {each.title: (each.sheet_state == "visible", *_size(each)) for each in workbook.worksheets}
    # One column may hold texts, or lines of a cover: the table beside a cover is the longer one.
    longest = {
        seen: max(
            (rows for is_seen, rows, columns in sizes.values() if columns > 1 and is_seen == seen), default=0
        )
        for seen in (True, False)
    }

    def look(title: str) -> tuple[bool, int]:
        seen, rows, columns = sizes[title]
        is_list = rows >= _LIST and rows > longest[seen]
        return seen, min(2, rows) + (2 if is_list else min(2, columns))

    return sorted((title for title, (_, rows, _) in sizes.items() if rows), key=look, reverse=True)


def _size(sheet: Any) -> tuple[int, int]:
    """Rows with anything in them, of the first, and columns of the widest."""
    first = itertools.islice(sheet.iter_rows(values_only=True), _LOOKED_AT)
    widths = [sum(cell not in (None, "") for cell in cells) for cells in first if _is_filled(cells)]
    return len(widths), max(widths, default=0)


def _has_formulas(path: Path) -> bool:
    with open_package(path) as package:
        for part in package.namelist():
            if part.startswith("xl/worksheets/") and part.endswith(".xml"):
                with package.open(part) as xml:
                    end = b""
                    while chunk := xml.read(_CHUNK):
                        if _FORMULA.search(end + chunk):
                            return True
                        end = chunk[-20:]
    return False


def _with_formulas(path: Path, workbook: openpyxl.Workbook, title: str) -> Iterator[Sequence[object]]:
    """Where nobody saved what a formula comes to, the formula: openpyxl reads either the ones or the others."""
    with path.open("rb") as file:
        written = openpyxl.load_workbook(file, read_only=True, keep_links=False)
        _measure_anew(written)
        formulas = written[title].iter_rows(values_only=True)
        for cells, as_written in zip(workbook[title].iter_rows(), formulas, strict=True):
            yield [_value(cell, formula) for cell, formula in zip(cells, as_written, strict=True)]


def _value(cell: Any, formula: Any) -> object:
    if (
        cell.value is None and formula is not None and cell.data_type != "str"
    ):  # which has come to an empty text
        return NoValue(getattr(formula, "text", formula))
    return cell.value


def _rows(found: Iterator[Sequence[object]], header: bool) -> Rows:
    filled = (
        (n, cells) for n, cells in enumerate(itertools.islice(found, MAX_SHEET_ROWS), 1) if _is_filled(cells)
    )
    first = list(itertools.islice(filled, _FIRST))
    if header:
        del first[: titles_above([cells for _, cells in first])]
        names = column_names(first.pop(0)[1], True) if first else []
    else:
        names = column_names(max((cells for _, cells in first), key=len, default=()), False)
    for line, cells in itertools.chain(first, filled):
        values = [_plain(cell) for cell in cells] + [None] * (
            len(names) - len(cells)
        )  # empty ones are left out
        beginning = " | ".join(str(value)[:80] for value in values[:8] if value is not None)
        yield table_row(line, names, values, beginning, 0)
    if next(found, None) is not None:
        yield Flaw(MAX_SHEET_ROWS + 1, "file_too_long", "", f"A sheet has at most {MAX_SHEET_ROWS} rows.")


def _is_filled(cells: Sequence[object]) -> bool:
    return any(cell not in (None, "") for cell in cells)


def _plain(cell: object) -> object:
    """As it is seen in the sheet."""
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time():
        cell = cell.date()  # a date is a time at midnight
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    if isinstance(cell, bool):
        return "TRUE" if cell else "FALSE"
    if isinstance(cell, str) and _ERROR.fullmatch(cell):
        return NoValue(cell)
    if cell is None or isinstance(cell, str | int | float):
        return cell
    return str(cell)
