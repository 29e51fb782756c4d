"""JSON Lines: one example a line. Knows nothing of what an example is."""

from __future__ import annotations

from pathlib import Path

import msgspec

from training.datasets.limits import MAX_LINE
from training.datasets.readers.lines import read_lines
from training.datasets.readers.rows import Flaw, Row, Rows, Skipped

_decode = msgspec.json.Decoder().decode


def read_jsonl(path: Path, encoding: str, start: int = 0, end: int | None = None, first: int = 1) -> Rows:
    """The rows of the lines that begin in [start, end); `first` is the number of the first of them."""
    for line in read_lines(path, encoding, start, end, first):
        if line.goes_on:
            yield Skipped(line.done)
        elif line.too_long:
            yield too_long(line.number, line.data, line.done)
        elif not line.data.isspace():
            yield decoded(line.number, line.data, line.done)


def decoded(line: int, data: bytes, done: int) -> Row | Flaw:
    try:
        return Row(line, _decode(data), done)
    except RecursionError:
        return Flaw(line, "invalid_json", data, "It is nested too deeply.", done)
    except (msgspec.DecodeError, ValueError) as error:
        try:
            data.decode()
        except UnicodeDecodeError as broken:
            around = data[max(0, broken.start - 60) : broken.start + 60]
            return Flaw(
                line, "invalid_encoding", around, "Some of its bytes are no characters of the encoding.", done
            )
        return Flaw(line, "invalid_json", data, f"It is not valid JSON: {error}.", done)


def too_long(line: int, beginning: bytes, done: int) -> Flaw:
    return Flaw(line, "line_too_long", beginning, f"It is longer than {MAX_LINE // 2**20} MB.", done)
