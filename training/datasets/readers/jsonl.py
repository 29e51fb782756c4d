"""JSON Lines: one example a line. Knows nothing of what an example is."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import msgspec

from training.datasets.limits import MAX_LINE
from training.datasets.readers.lines import read_lines
from training.datasets.readers.rows import Flaw, Row, Rows, Skipped

_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(?P<high>u[dD][89abAB]..)|(?P<low>u[dD][c-fC-F]..)|.)", re.DOTALL
)
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
        if b"NaN" in data or b"Infinity" in data:  # as Python writes what is missing
            with contextlib.suppress(ValueError, RecursionError):
                return Row(line, json.loads(data, parse_constant=lambda _: None), done)
        try:
            data.decode()
        except UnicodeDecodeError as broken:
            around = data[max(0, broken.start - 60) : broken.start + 60]
            return Flaw(
                line, "invalid_encoding", around, "Some of its bytes are no characters of the encoding.", done
            )
        if (half := _half_a_character(data)) is not None:
            around = data[max(0, half.start() - 60) : half.end() + 60]
            reason = f"{half.group().decode()} is half of a character, and the other half is not there."
            return Flaw(line, "invalid_json", around, reason, done)
        return Flaw(line, "invalid_json", data, f"It is not valid JSON: {error}.", done)


def _half_a_character(data: bytes) -> re.Match[bytes] | None:
    """An escaped surrogate without its partner, as texts have that were cut by UTF-16's units."""
    return next((match for match in _ESCAPE.finditer(data) if match["high"] or match["low"]), None)


def too_long(line: int, beginning: bytes, done: int) -> Flaw:
    return Flaw(line, "line_too_long", beginning, f"It is longer than {MAX_LINE // 2**20} MB.", done)
