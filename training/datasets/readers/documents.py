"""Texts of any length as documents of a sensible one, cut between paragraphs. Knows nothing of formats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from training.datasets.limits import MAX_DOCUMENT
from training.datasets.readers.rows import Row, Rows

Paragraphs = Iterable[tuple[int, str]]  # the line or page each begins on, and its text


def documents(paragraphs: Paragraphs, title: str = "") -> Rows:
    line, length = 0, 0
    pieces: list[str] = []
    for at, paragraph in paragraphs:
        for piece in _bounded(paragraph):
            if pieces and length + len(piece) > MAX_DOCUMENT:
                yield _document(line, pieces, title)
                pieces, length = [], 0
            if not pieces:
                line = at
            pieces.append(piece)
            length += len(piece) + 2
    if pieces:
        yield _document(line, pieces, title)


def _document(line: int, pieces: list[str], title: str) -> Row:
    return Row(line, {"text": "\n\n".join(pieces), "title": title})


def _bounded(paragraph: str) -> Iterator[str]:
    """A paragraph longer than a document is cut after a sentence, a word, or where it must be."""
    paragraph = paragraph.strip("\r\n")
    while len(paragraph) > MAX_DOCUMENT:
        half = MAX_DOCUMENT // 2
        for ending in ("\n", ". ", " ", "。"):
            cut = paragraph.rfind(ending, half, MAX_DOCUMENT - len(ending))
            if cut > 0:
                cut += len(ending)
                break
        else:
            cut = MAX_DOCUMENT
        yield paragraph[:cut].rstrip()
        paragraph = paragraph[cut:].lstrip()
    if paragraph.strip():
        yield paragraph
