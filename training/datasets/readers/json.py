"""JSON that is one array, an object that holds one, or several values one after the other, however laid out over lines.

Only one of them is held at a time. Knows nothing of what they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from training.datasets.encodings import open_text, position
from training.datasets.limits import MAX_LINE
from training.datasets.readers.jsonl import decoded, too_long
from training.datasets.readers.rows import Rows, Skipped

_CHUNK = 2**20
_NAME = 4096  # bytes before an array in which its name is looked for
_IN_STRING = re.compile(rb'["\\]')
_OUTSIDE = re.compile(rb'["\[\]{},]')


def read_json(path: Path, encoding: str, within: str) -> Rows:
    """`within`: what the array is called in the object that holds it, where there is one."""
    splitter = _Splitter(within)
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

    def __init__(self, within: str) -> None:
        name = re.escape(msgspec.json.encode(within))
        self._name = re.compile(name + rb"\s*:\s*\Z") if within else None
        self._kept: list[bytes] = []
        self._size = 0  # of the value so far, kept or not
        self._line = 1
        self._skipped_lines = 0

    def split(self, chunks: Iterator[tuple[bytes, int]]) -> Iterator[tuple[int, bytes, bool, int] | Skipped]:
        # `base`: how deep the array's values lie; 0: there is none.
        depth, in_string, escaped, base, ended, done = 0, False, False, 0, False, 0
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
                    depth += 1
                    if character == b"[" and not base and self._begins(depth, chunk, begin, position - 1):
                        base, begin = depth, position
                else:
                    depth = max(0, depth - (character != b","))
                    ended = depth < base
                    # In an array a comma ends a value, and elsewhere its own last bracket.
                    if ended or (depth == base and (character == b",") == (base > 0)):
                        value_end = position - (base > 0)  # without the comma or bracket
                        self._keep(chunk[begin:value_end])
                        yield from self._take(done)
                        begin = position
            if not ended:
                self._keep(chunk[begin:])
                if self._size > MAX_LINE:
                    yield Skipped(done)
        yield from self._take(done)

    def _begins(self, depth: int, chunk: bytes, begin: int, end: int) -> bool:
        """Whether the array that opens here is the one with the values: then what stands before it is passed over."""
        if depth == 1:
            is_it = not self._size and not chunk[begin:end].strip()
        elif depth == 2 and self._name is not None:
            before = (
                b"".join(piece[-_NAME:] for piece in self._kept[-1:]) + chunk[max(begin, end - _NAME) : end]
            )
            is_it = self._name.search(before) is not None
        else:
            is_it = False
        if is_it:
            self._line += sum(piece.count(b"\n") for piece in self._kept) + chunk.count(b"\n", begin, end)
            self._kept, self._size = [], 0
        return is_it

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
