"""What every reader yields: rows as they stand in the file, and places where there should have been one.

Knows nothing of what a row means.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class NoValue(str):
    """What stands in a spreadsheet's cell in place of a value: an error, or a formula nobody saved the result of."""


class Row(NamedTuple):
    line: int  # from 1: the line, the table's row, the page
    value: object  # decoded JSON, a table's row by column, or {"text": ..., "title": ...}
    done: int = 0  # bytes of the file that are behind us, where the reader knows


class Flaw(NamedTuple):
    line: int
    code: str
    excerpt: object
    reason: str
    done: int = 0


class Skipped(NamedTuple):
    """Still within a row that is too long: a word that the reading goes on, for rows that take minutes to end."""

    done: int


class Sheets(NamedTuple):
    """Before a workbook's rows: its sheets that have anything in them, first the one whose rows follow."""

    names: list[str]
    likely: str  # the one that seems to hold the examples


class Note(NamedTuple):
    """Something wrong with the file as a whole, which is read all the same."""

    code: str
    reason: str


Rows = Iterator[Row | Flaw | Skipped | Sheets | Note]
