"""Plain text and Markdown: paragraphs between blank lines. Of what they say it knows only what site generators read off
the top of a page (front matter): a title is one, and the rest is not for readers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from training.datasets.encodings import open_text
from training.datasets.limits import MAX_DOCUMENT
from training.datasets.readers.documents import documents
from training.datasets.readers.rows import Rows

_WIDE = 10_000  # characters of a line
_MOST_FIELDS = 200  # lines
_FIELD = re.compile(r"([\w.-]+)\s*[:=](.*)")


def read_text(path: Path, encoding: str) -> Rows:
    yield from documents(_paragraphs(path, encoding))


def read_markdown(path: Path, encoding: str) -> Rows:
    lines, title = _front_matter(path, encoding)
    yield from documents(_paragraphs(path, encoding, lines), title or _heading(path, encoding, lines))


def _front_matter(path: Path, encoding: str) -> tuple[int, str]:
    """How many lines of it there are, and the title in it: between "---" and "---" (YAML), or "+++" (TOML)."""
    with open_text(path, encoding) as text:
        mark = text.readline(_WIDE).lstrip("\ufeff").rstrip()
        if mark not in ("---", "+++"):
            return 0, ""
        title = ""
        for number, line in enumerate(iter(lambda: text.readline(_WIDE), ""), 2):
            if line.rstrip() == mark:
                return number, title
            field = _FIELD.match(line)
            is_field = field or line[0] in " \t-#[]\n"
            if number > _MOST_FIELDS or not is_field or not line.endswith("\n"):
                break
            if field and field[1].casefold() == "title":
                title = field[2].strip().strip("\"'")[:200]
    return 0, ""


def _paragraphs(path: Path, encoding: str, skipped: int = 0) -> Iterator[tuple[int, str]]:
    """`skipped`: lines that are not read."""
    with open_text(path, encoding) as text:
        for _ in islice(text, skipped):
            pass
        line, begin, length = 1 + skipped, 1, 0
        held: list[str] = []
        while piece := text.readline(MAX_DOCUMENT):
            if not piece.isspace():
                begin = begin if held else line
                held.append(piece)
                length += len(piece)
            if held and (piece.isspace() or length >= MAX_DOCUMENT):
                yield begin, "".join(held)
                held, length = [], 0
            line += piece.endswith("\n")
        if held:
            yield begin, "".join(held)


def _heading(path: Path, encoding: str, skipped: int) -> str:
    with open_text(path, encoding) as text:
        for _ in islice(text, skipped):
            pass
        for _ in range(100):
            line = text.readline(1000)
            if line.startswith("#"):
                return line.strip("# \t\r\n")[:200]
    return ""
