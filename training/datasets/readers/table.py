"""Tables in text: CSV, TSV and their kin. Knows nothing of what columns mean."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from training.datasets import dialect
from training.datasets.encodings import MARK, open_text, position
from training.datasets.layouts import first_rows, titles_above
from training.datasets.limits import MAX_COLUMNS, MAX_LINE
from training.datasets.problems import DataError
from training.datasets.readers.rows import Flaw, Row, Rows, Skipped

csv.field_size_limit(MAX_LINE)
_BEGINNING = 200  # characters
_TELL = 64  # rows between two looks at how far it is


class _TooLong(Exception):
    pass


class _Feed:
    """Lines for the csv module, which joins those within quotation marks: it is stopped before that fills memory."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text, self._held, self.line = text, 0, 0
        self._is_within = False  # a line of which the rest is not read
        self.lines: list[str] = []  # of the row so far
        self._again: list[str] = []  # to be given out once more, the last first

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = self._again.pop() if self._again else self._text.readline(MAX_LINE + 1)
        if not line:
            raise StopIteration
        self.line += 1
        self.lines.append(line)
        self._held += len(line)
        if self._held > MAX_LINE:
            self._is_within = not line.endswith(("\n", "\r"))
            raise _TooLong
        return line

    def skip_rest(self) -> Iterator[None]:
        """To the end of the line that was too long, with a pause now and then."""
        while self._is_within and (piece := self._text.readline(MAX_LINE)):
            self._is_within = not piece.endswith(("\n", "\r"))
            yield

    @property
    def beginning(self) -> str:
        return self.lines[0][:_BEGINNING]

    def next_row(self) -> None:
        self._held = 0
        self.lines.clear()

    def only_first(self) -> None:
        """A mark that is not closed takes no lines with it but its own: the others are given out once more."""
        self.line -= len(self.lines) - 1
        self._again += self.lines[:0:-1]


def read_csv(path: Path, encoding: str, delimiter: str, header: bool) -> Rows:
    with open_text(path, encoding, newline="") as text:
        sample = text.read(dialect.SAMPLE)
        enclosed = dialect.are_enclosed(sample, delimiter)
        titles = titles_above(first_rows(sample.lstrip("\ufeff"), delimiter)) if header else 0
        text.seek(0)
        feed = _Feed(text)
        rows = dialect.cells(feed, delimiter, enclosed=enclosed, strict=True)
        names: list[str] = []
        done = 0
        for number in itertools.count():
            done = done if number % _TELL else position(text)
            feed.next_row()
            line = feed.line + 1
            try:
                cells = next(rows)
            except StopIteration:
                return
            except _TooLong:
                # A half-read row would go on in the next.
                rows = dialect.cells(feed, delimiter, enclosed=enclosed, strict=True)
                reason = f"It is longer than {MAX_LINE // 2**20} MB; a quotation mark may not be closed."
                if len(feed.lines) > 1:
                    feed.only_first()
                    yield Flaw(line, "invalid_row", feed.beginning, reason, done)
                    continue
                for _ in feed.skip_rest():
                    yield Skipped(position(text))
                yield Flaw(line, "line_too_long", feed.beginning, reason, position(text))
                continue
            except csv.Error as error:
                loose = dialect.loose_cells(feed.lines, delimiter)
                if loose is None:
                    feed.only_first()
                    reason = f"It is no row of a table: {error}."
                    yield Flaw(line, "invalid_row", feed.beginning, reason, done)
                    continue
                cells = loose
            if not any(cells) or (line == 1 and dialect.SEPARATOR.fullmatch(feed.beginning)):
                continue
            if titles:
                titles -= 1
                continue
            if not names:
                names = column_names(cells, header)
                if header:
                    continue
            yield table_row(line, names, cells, feed.beginning, done)


def column_names(cells: Sequence[object], header: bool) -> list[str]:
    """Of a first row; where it has no names, or not enough, "column 1" and so on. Each only once.

    Raises DataError `file_too_complex`.
    """
    if any(cell not in (None, "") for cell in cells[MAX_COLUMNS:]):
        raise DataError("file_too_complex", f"It has more than {MAX_COLUMNS} columns.")
    names: list[str] = []
    for number, cell in enumerate(cells[:MAX_COLUMNS], 1):
        name = str(cell).strip().lstrip("\ufeff")[:200] if header and cell is not None else ""
        name = name.replace(MARK, "\ufffd").replace("\0", "\ufffd")  # what databases and pages cannot hold
        names.append(name if name and name not in names else f"column {number}")
    return names


def table_row(line: int, names: list[str], cells: Sequence[object], beginning: str, done: int) -> Row | Flaw:
    if MARK in beginning or any(isinstance(cell, str) and MARK in cell for cell in cells):
        return Flaw(
            line, "invalid_encoding", beginning, "Some of its bytes are no characters of the encoding.", done
        )
    if len(cells) > len(names) and any(cell not in (None, "") for cell in cells[len(names) :]):
        reason = f"It has {len(cells)} fields, and the table has {len(names)} columns."
        return Flaw(line, "too_many_fields", beginning, reason, done)
    return Row(line, dict(zip(names, cells, strict=False)), done)
