"""What a table in text may be besides its separator: quotation marks that enclose fields, or belong to them.

Knows nothing of files or columns.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator

SAMPLE = 2**18  # characters that are looked at
# Excel's first line that says what separates the fields: no row of the table.
SEPARATOR = re.compile(r'\ufeff?"?sep=(.)"?(?:\r\n|\r|\n)', re.IGNORECASE)


def without_separator_line(text: str) -> str:
    return SEPARATOR.sub("", text, count=1) if SEPARATOR.match(text) else text


def are_enclosed(text: str, delimiter: str) -> bool:
    """Whether marks at the beginning of a field enclose it (RFC 4180), as most of them tell; in doubt they do."""
    end = f"[\r\n{re.escape(delimiter)}]"
    beginning = re.compile(rf'(?:\A|(?<={end}))"((?:[^"]++|"")*+"(?={end}|\Z))?')
    closed = [match.group(1) is not None for match in beginning.finditer(text[:SAMPLE])]
    return sum(closed) * 2 >= len(closed)


def cells(
    lines: Iterable[str], delimiter: str, *, enclosed: bool, strict: bool = False
) -> Iterator[list[str]]:
    """`strict`: a mark that encloses and has no partner is a csv.Error."""
    if enclosed:
        return csv.reader(lines, delimiter=delimiter, strict=strict)
    return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
