"""The Record shards that reading leaves, cut into parts that can be worked on side by side. Knows nothing of the work.

Where a part begins depends on the data alone, never on how many processes there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from training.datasets.examples import Record

_PART_BYTES = 16 * 2**20
_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


class Part(msgspec.Struct):
    """The lines of a shard in [start, end)."""

    path: str
    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


def parts_of(folder: Path, part_bytes: int = _PART_BYTES) -> list[Part]:
    """All of a records folder, in order."""
    parts: list[Part] = []
    for shard in sorted(folder.glob("*.jsonl")):
        with shard.open("rb") as file:
            size, start = shard.stat().st_size, 0
            while start < size:
                file.seek(min(start + part_bytes, size))
                file.readline()
                parts.append(Part(str(shard), start, file.tell()))
                start = file.tell()
    return parts


def lines_of(part: Part) -> Iterator[tuple[int, bytes]]:
    """Each line and where in the shard it begins."""
    with open(part.path, "rb") as file:
        file.seek(part.start)
        while (offset := file.tell()) < part.end:
            yield offset, file.readline()


def records_of(part: Part) -> Iterator[tuple[int, Record]]:
    for offset, line in lines_of(part):
        yield offset, _decoder.decode(line)


def record_at(part: Part, offset: int) -> Record:
    with open(part.path, "rb") as file:
        file.seek(offset)
        return _decoder.decode(file.readline())
