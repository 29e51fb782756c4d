"""How sources are cut into parts, always in the same way. Knows nothing of who reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from training.datasets.encodings import is_bytewise
from training.datasets.limits import PART
from training.datasets.part import Part
from training.datasets.sources import Source

_CHUNK = 2**20


def plan(sources: list[Source], tick: Callable[[], None]) -> Iterator[Part]:
    """`tick` is called now and then, and may raise."""
    for index, source in enumerate(sources):
        path, reading = source.path, source.reading
        if reading.layout == "jsonl" and is_bytewise(reading.encoding) and path.stat().st_size > PART:
            for start, end, first in _ranges(path):
                tick()
                yield Part(index, str(path), source.name, reading, start, end, first)
        else:
            yield Part(index, str(path), source.name, reading)


def _ranges(path: Path) -> Iterator[tuple[int, int, int]]:
    """Ranges of whole lines of about this many bytes, each with the number of its first line."""
    with path.open("rb") as file:
        start, line = 0, 1
        while True:
            position, lines = start, 0
            while position < start + PART and (chunk := file.read(min(_CHUNK, start + PART - position))):
                position += len(chunk)
                lines += chunk.count(b"\n")
            while rest := file.readline(_CHUNK):  # to the end of the line it is in
                position += len(rest)
                if rest.endswith(b"\n"):
                    lines += 1
                    break
            if position == start:
                return
            yield start, position, line
            start, line = position, line + lines
