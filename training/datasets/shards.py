"""The Record shards that reading leaves, cut into parts that can be worked on side by side. Knows nothing of the work.

Where a part begins depends on the data alone, never on how many processes there are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

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
    """All of a records folder, in order; one of nothing where it holds nothing."""
    parts: list[Part] = []
    for shard in sorted(folder.glob("*.jsonl")):
        with shard.open("rb") as file:
            size, start = shard.stat().st_size, 0
            while start < size:
                file.seek(min(start + part_bytes, size))
                file.readline()
                parts.append(Part(str(shard), start, file.tell()))
                start = file.tell()
    return parts or [Part(os.devnull, 0, 0)]


def records_of(part: Part) -> Iterator[tuple[int, Record]]:
    """Each record and where in the shard it begins."""
    with open(part.path, "rb") as file:
        file.seek(part.start)
        while (offset := file.tell()) < part.end:
            yield offset, _decoder.decode(file.readline())


class Index:
    """Where each record of several parts is, by its number among them all."""

    def __init__(self, parts: Sequence[Part], offsets: Sequence[npt.NDArray[np.uint64]]) -> None:
        self._parts, self._offsets = parts, offsets
        self._ends = np.cumsum([len(some) for some in offsets])

    def record(self, row: int) -> Record:
        number = int(np.searchsorted(self._ends, row, side="right"))
        within = row - (int(self._ends[number - 1]) if number else 0)
        with open(self._parts[number].path, "rb") as file:
            file.seek(int(self._offsets[number][within]))
            return _decoder.decode(file.readline())
