"""JSON that is one array, or several values one after the other, however they are laid out over lines.

Only one of them is held at a time. Knows nothing of what they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from training.datasets.encodings import open_text, position
from training.datasets.limits import MAX_LINE
from training.datasets.readers.jsonl import decoded, too_long
from training.datasets.readers.rows import Rows, Skipped

_CHUNK = 2**20
_IN_STRING = re.compile(rb'["\\]')
_OUTSIDE = re.compile(rb'["\[\]{},]')


def read_json(path: Path, encoding: str) -> Rows:
    splitter = _Splitter()
    for found in splitter.split(_chunks(path, encoding)):
        if isinstance(found, Skipped):
            yield found
            continue
        line, data, long, done = found
        yield too_long(line, data, done) if long else decoded(line, data, done)


def _chunks(path: Path, encoding: str) -> Iterator[tuple[bytes, int]]:
    """UTF-8, and the bytes of the file up to there."""
    with open_text(path, encoding) as text:
        while piece := text.read(_CHUNK):
            yield piece.encode("utf-8", "surrogatepass"), position(text)


class _Splitter:
    """Finds where values end by their brackets and commas; whether they are valid is for the decoder to say."""

    def __init__(self) -> None:
        self._kept: list[bytes] = []
        self._size = 0  # of the value so far, kept or not
        self._line = 1
        self._skipped_lines = 0

    def split(self, chunks: Iterator[tuple[bytes, int]]) -> Iterator[tuple[int, bytes, bool, int] | Skipped]:
        depth, in_string, escaped, array, ended, done = 0, False, False, False, False, 0
        for chunk, done in chunks:
            begin = position = 0
            if escaped:
                position, escaped = 1, False
            while not ended:
                found = (_IN_STRING if in_string else _OUTSIDE).search(chunk, position)
                if found is None:
                    break
                position, character = found.end(), found.group()
                if character == b'"':
                    in_string = not in_string
                elif character == b"\\":
                    escaped = position == len(chunk)
                    position += 1
                elif character in b"[{":
                    if (
                        not depth
                        and not self._size
                        and character == b"["
                        and not chunk[begin : position - 1].strip()
                    ):
                        array, begin = True, position
                        self._line += chunk.count(b"\n", 0, position)
                    depth += 1
                else:
                    depth = max(0, depth - (character != b","))
                    ended = array and not depth
                    # In an array a comma ends a value, and elsewhere its own last bracket.
                    if ended or (depth == array and (character == b",") == array):
                        value_end = position - array  # without the comma or bracket
                        self._keep(chunk[begin:value_end])
                        yield from self._take(done)
                        begin = position
            if not ended:
                self._keep(chunk[begin:])
                if self._size > MAX_LINE:
                    yield Skipped(done)
        yield from self._take(done)

    def _keep(self, piece: bytes) -> None:
        if self._size <= MAX_LINE:
            self._kept.append(piece)
        else:
            self._skipped_lines += piece.count(b"\n")
        # Blank so far: whatever its length, it is not the value's.
        self._size += len(piece) if self._size else len(piece.lstrip())

    def _take(self, done: int) -> Iterator[tuple[int, bytes, bool, int]]:
        data, long = b"".join(self._kept), self._size > MAX_LINE
        value = data.strip(b" \t\r\n,\xef\xbb\xbf")
        if value:
            yield self._line + data.count(b"\n", 0, data.index(value[:1])), value, long, done
        self._line += data.count(b"\n") + self._skipped_lines
        self._kept, self._size, self._skipped_lines = [], 0, 0
