"""The text of a Word document as it is printed, paragraph by paragraph, tables whole with a line for each row. Headers,
footers, notes and comments are not read; macros, fields and links never run or followed.

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
_OTHERS = (
    "http://schemas.openxmlformats.org/markup-compatibility/2006 Fallback",
    "http://purl.org/dc/elements/1.1/ title",
)
# What says the same once more, what was moved elsewhere or deleted, and how something looked before it was changed.
_LEFT_OUT = ("Fallback", "moveFrom", "del", "rPrChange", "pPrChange")
_WRITTEN = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
_CELLS = {"tc": ("\t", " "), "tr": ("\n", "\t ")}  # what stands after one, and instead of what


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
        self._held = self._left_out = self._tables = 0
        self._number = self._begin = 1
        self._is_reading = False
        self._are_hidden: list[bool] = []  # of the runs we are in: one may hold a text box with others

    def take(self) -> list[tuple[int, str]]:
        taken, self._paragraphs = self._paragraphs, []
        return taken

    def _doctype(self, *_: object) -> None:
        raise DataError("broken_file", "The document declares entities, which no word processor writes.")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        tag = _tag(name)
        if tag in _LEFT_OUT:
            self._left_out += 1
        elif self._left_out or not tag:
            pass
        elif tag == "r":
            self._are_hidden.append(False)
        elif tag == "tbl":
            self._tables += 1
        elif tag == "vanish" and self._are_hidden:
            values = [value for key, value in attributes.items() if key.endswith(" val")]
            self._are_hidden[-1] = values not in (["0"], ["false"], ["off"])
        elif tag in _WRITTEN and self._are_hidden and not any(self._are_hidden):  # elsewhere it is a tab stop
            self._add(_WRITTEN[tag])
        self._is_reading = tag == "title" or (tag == "t" and not self._left_out and not any(self._are_hidden))

    def _end(self, name: str) -> None:
        self._is_reading = False
        tag = _tag(name)
        if tag in _LEFT_OUT:
            self._left_out -= 1
        elif self._left_out:
            pass
        elif tag == "r" and self._are_hidden:
            self._are_hidden.pop()
        elif tag in ("p", "title"):
            if self._tables:
                self._add(" ")
            else:
                self._close()
            self._number += 1
            self._begin = self._begin if self._tables else self._number
        elif tag in _CELLS:
            after, instead_of = _CELLS[tag]
            while self._pieces and self._pieces[-1] in instead_of:
                self._pieces.pop()
            self._add(after)
        elif tag == "tbl":
            self._tables -= 1
            if not self._tables:
                self._close()

    def _text(self, text: str) -> None:
        if self._is_reading:
            self._add(text)

    def _add(self, text: str) -> None:
        self._pieces.append(text)
        self._held += len(text)
        if self._held > MAX_DOCUMENT:
            self._close()

    def _close(self) -> None:
        self._paragraphs.append((self._begin, "".join(self._pieces)))
        self._pieces, self._held, self._begin = [], 0, self._number


def _tag(name: str) -> str:
    """Of Word's elements, and of the few others that count; else empty."""
    return name.rpartition(" ")[2] if name in _OTHERS or name.startswith(_WORD) else ""
