"""Lines of a file of any size: one too long is skipped without ever being held. Knows nothing of what lines say."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import IO, AnyStr, BinaryIO, NamedTuple

from training.datasets.encodings import is_bytewise, open_text, position
from training.datasets.limits import MAX_LINE

_SKIP = 2**20


class Line(NamedTuple):
    number: int
    data: (
        bytes  # UTF-8; where the file had something else, what is no UTF-8 either. Its beginning if too long
    )
    too_long: bool
    done: int  # bytes of the file up to its end


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
                too_long = _skip_rest(text, line, "\n")
                yield Line(number, line.encode("utf-8", "surrogatepass"), too_long, position(text))


def _byte_lines(file: BinaryIO, encoding: str, start: int, end: int | None, first: int) -> Iterator[Line]:
    file.seek(start)
    utf8 = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii")
    number, done = first, start
    while end is None or done < end:
        data = file.readline(MAX_LINE + 1)
        if not data:
            return
        too_long = _skip_rest(file, data, b"\n")
        done = done + len(data) if not too_long else file.tell()
        if not utf8:
            data = data.decode(encoding, "flywheel-mark").encode("utf-8", "surrogatepass")
        elif number == 1 and data.startswith(codecs.BOM_UTF8):
            data = data[len(codecs.BOM_UTF8) :]
        yield Line(number, data, too_long, done)
        number += 1


def _skip_rest(file: IO[AnyStr], line: AnyStr, ending: AnyStr) -> bool:
    if len(line) <= MAX_LINE or line.endswith(ending):
        return False
    while line and not line.endswith(ending):
        line = file.readline(_SKIP)
    return True
