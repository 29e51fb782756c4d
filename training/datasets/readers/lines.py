"""Lines of a file of any size: one too long is skipped without ever being held. Knows nothing of what lines say."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import IO, AnyStr, BinaryIO, NamedTuple

from training.datasets.encodings import is_bytewise, open_text, position
from training.datasets.limits import MAX_LINE

_SKIP = 2**20
_WORD_EVERY = 16  # of these


class Line(NamedTuple):
    number: int
    data: (
        bytes  # UTF-8; where the file had something else, what is no UTF-8 either. Its beginning if too long
    )
    too_long: bool
    done: int  # bytes of the file up to its end
    goes_on: bool = False  # its end is still being looked for, and what is known of it comes later


def read_lines(
    path: Path, encoding: str, start: int = 0, end: int | None = None, first: int = 1
) -> Iterator[Line]:
    """The lines that begin in [start, end), which only a bytewise encoding may narrow."""
    if is_bytewise(encoding):
        with path.open("rb") as file:
            yield from _byte_lines(file, encoding, start, end, first)
    else:
        with open_text(path, encoding) as text:
            for number, line in enumerate(iter(lambda: text.readline(MAX_LINE + 1), ""), 1):
                too_long = len(line) > MAX_LINE and not line.endswith("\n")
                if too_long:
                    for _ in _skip_rest(text, "\n"):
                        yield Line(number, b"", True, position(text), goes_on=True)
                yield Line(number, line.encode("utf-8", "surrogatepass"), too_long, position(text))


def _byte_lines(file: BinaryIO, encoding: str, start: int, end: int | None, first: int) -> Iterator[Line]:
    file.seek(start)
    utf8 = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii")
    number, done = first, start
    while end is None or done < end:
        data = file.readline(MAX_LINE + 1)
        if not data:
            return
        too_long = len(data) > MAX_LINE and not data.endswith(b"\n")
        if too_long:
            for _ in _skip_rest(file, b"\n"):
                yield Line(number, b"", True, file.tell(), goes_on=True)
        done = done + len(data) if not too_long else file.tell()
        if not utf8:
            data = data.decode(encoding, "flywheel-mark").encode("utf-8", "surrogatepass")
        elif number == 1 and data.startswith(codecs.BOM_UTF8):
            data = data[len(codecs.BOM_UTF8) :]
        yield Line(number, data, too_long, done)
        number += 1


def _skip_rest(file: IO[AnyStr], ending: AnyStr) -> Iterator[None]:
    """To the end of the line, with a pause now and then."""
    for count, piece in enumerate(iter(lambda: file.readline(_SKIP), file.read(0)), 1):
        if piece.endswith(ending):
            return
        if count % _WORD_EVERY == 0:
            yield
