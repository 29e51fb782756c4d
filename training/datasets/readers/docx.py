"""The text of a Word document, paragraph by paragraph. Macros, fields and links are never run or followed.

Read as XML by expat, piece by piece, with entities refused: nothing but the text is ever held.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.parsers import expat

from training.datasets.limits import MAX_DOCUMENT
from training.datasets.problems import DataError
from training.datasets.readers.documents import documents
from training.datasets.readers.packages import check_part, open_package
from training.datasets.readers.rows import Rows

_CHUNK = 2**16
_WORD = (
    "http://schemas.openxmlformats.org/wordprocessingml/2006/main ",
    "http://purl.oclc.org/ooxml/wordprocessingml/main ",  # the strict variant's
)
_FALLBACK = "http://schemas.openxmlformats.org/markup-compatibility/2006 Fallback"  # says the same once more
_TITLE = "http://purl.org/dc/elements/1.1/ title"


def read_docx(path: Path) -> Rows:
    """Raises DataError `broken_file`, `encrypted_file`, `expands_too_much` or `no_text`."""
    with open_package(path) as package:
        title = " ".join("".join(text for _, text in _texts(package, "docProps/core.xml")).split())
        found = False
        for row in documents(_texts(package, "word/document.xml"), title[:200]):
            found = True
            yield row
    if not found:
        raise DataError("no_text", "The document has no text in it.")


def _texts(package: zipfile.ZipFile, name: str) -> Iterator[tuple[int, str]]:
    """The paragraphs, numbered from 1, of one part; none where there is no such part."""
    try:
        part = package.getinfo(name)
    except KeyError:
        return
    check_part(part)
    collected = _Collector()
    with package.open(part) as xml:
        while chunk := xml.read(_CHUNK):
            collected.parser.Parse(chunk, False)
            yield from collected.take()
        collected.parser.Parse(b"", True)
        yield from collected.take()


class _Collector:
    def __init__(self) -> None:
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.StartDoctypeDeclHandler = self._doctype
        self._paragraphs: list[tuple[int, str]] = []
        self._pieces: list[str] = []
        self._held = self._fallbacks = 0
        self._number = 1
        self._reading = False

    def take(self) -> list[tuple[int, str]]:
        taken, self._paragraphs = self._paragraphs, []
        return taken

    def _doctype(self, *_: object) -> None:
        raise DataError("broken_file", "The document declares entities, which no word processor writes.")

    def _start(self, name: str, _: object) -> None:
        if name == _FALLBACK:
            self._fallbacks += 1
        elif name == _TITLE or name.startswith(_WORD):
            tag = name.rpartition(" ")[2]
            self._reading = tag in ("t", "title") and not self._fallbacks
            if tag in ("tab", "br", "cr"):
                self._pieces.append("\t" if tag == "tab" else "\n")

    def _end(self, name: str) -> None:
        self._reading = False
        if name == _FALLBACK:
            self._fallbacks -= 1
        elif name == _TITLE or (name.startswith(_WORD) and name.endswith(" p")):
            self._close()
            self._number += 1

    def _text(self, text: str) -> None:
        if self._reading:
            self._pieces.append(text)
            self._held += len(text)
            if self._held > MAX_DOCUMENT:
                self._close()

    def _close(self) -> None:
        self._paragraphs.append((self._number, "".join(self._pieces)))
        self._pieces, self._held = [], 0
