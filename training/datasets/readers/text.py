"""Plain text and Markdown: paragraphs between blank lines. Knows nothing of what they say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from training.datasets.encodings import open_text
from training.datasets.limits import MAX_DOCUMENT
from training.datasets.readers.documents import documents
from training.datasets.readers.rows import Rows


def read_text(path: Path, encoding: str) -> Rows:
    yield from documents(_paragraphs(path, encoding))


def read_markdown(path: Path, encoding: str) -> Rows:
    yield from documents(_paragraphs(path, encoding), _heading(path, encoding))


def _paragraphs(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    with open_text(path, encoding) as text:
        line, begin, length = 1, 1, 0
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


def _heading(path: Path, encoding: str) -> str:
    with open_text(path, encoding) as text:
        for _ in range(100):
            line = text.readline(1000)
            if line.startswith("#"):
                return line.strip("# \t\r\n")[:200]
    return ""
