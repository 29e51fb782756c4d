"""What a table in text may be besides its separator: quotation marks that enclose fields, or belong to them.

Knows nothing of files or columns.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator

SAMPLE = 2**18  # characters that are looked at
# Excel's first line that says what separates the fields: no row of the table.
SEPARATOR = re.compile(r'\ufeff?"?sep=([^"\r\n\0])"?(?:\r\n|\r|\n)', re.IGNORECASE)

_INSIDE = r'(?:[^"]++|"")*+'  # between a mark and the one that closes it


def without_separator_line(text: str) -> str:
    return SEPARATOR.sub("", text, count=1) if SEPARATOR.match(text) else text


def are_enclosed(text: str, delimiter: str) -> bool:
    """Whether marks at the beginning of a field enclose it (RFC 4180), as most of them tell; in doubt they do.

    One that is still open where the sample ends tells nothing: a text may be longer than that.
    """
    sample, end = text[:SAMPLE], f"[\r\n{re.escape(delimiter)}]"
    closed = rf'({_INSIDE}" *(?={end}|\Z))'
    beginning = re.compile(rf'(?:\A|(?<={end}))"(?:{closed}|(?={_INSIDE}(")?))')
    doing = undoing = 0
    for match in beginning.finditer(sample):
        if match[1] is not None:
            doing += 1
        elif match[2] or len(text) < SAMPLE:
            undoing += 1
    return doing >= undoing


def cells(
    lines: Iterable[str], delimiter: str, *, enclosed: bool, strict: bool = False
) -> Iterator[list[str]]:
    """`strict`: a mark that encloses and has no partner is a csv.Error."""
    if enclosed:
        return csv.reader(lines, delimiter=delimiter, strict=strict)
    return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)


def loose_cells(lines: list[str], delimiter: str) -> list[str] | None:
    """Of the lines of a row that RFC 4180 forbids, as spreadsheets read it: blanks after the mark that closes a field,
    or in a row of one line whatever is there. None where a mark is not closed, or perhaps by another field's."""
    end = re.escape(delimiter)
    closed = rf'" *(?=[\r\n{end}]|\Z)'
    if len(lines) == 1:
        closed += rf'|(?<!{end})"[^\r\n{end}]*+'
    field = rf'(?:"{_INSIDE}(?:{closed})|(?!")[^\r\n{end}]*+)'
    if re.fullmatch(rf"{field}(?:{end}{field})*+(?:\r\n|\r|\n)?", "".join(lines)) is None:
        return None
    return next(csv.reader(lines, delimiter=delimiter))
