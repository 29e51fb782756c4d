"""How sources are cut into parts, always in the same way. Knows nothing of who reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from training.datasets.encodings import is_bytewise
from training.datasets.limits import PART
from training.datasets.part import Part
from training.datasets.sources import Source

_CHUNK = 2**20


def plan(sources: list[Source], tick: Callable[[], None], part_size: int = PART) -> Iterator[Part]:
    """`tick` is called now and then, and may raise."""
    for index, source in enumerate(sources):
        path, reading = source.path, source.reading
        if reading.layout == "jsonl" and is_bytewise(reading.encoding) and path.stat().st_size > part_size:
            for start, end, first in _ranges(path, part_size):
                tick()
                yield Part(index, str(path), source.name, reading, start, end, first)
        else:
            yield Part(index, str(path), source.name, reading)


def _ranges(path: Path, size: int) -> Iterator[tuple[int, int, int]]:
    """Ranges of whole lines of about this many bytes, each with the number of its first line."""
    with path.open("rb") as file:
        start, line = 0, 1
        while True:
            position, lines = start, 0
            while position < start + size and (chunk := file.read(min(_CHUNK, start + size - position))):
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
