"""One part of the sources read: a shard of Records and the Problems found, in the order of the file.

Knows nothing of processes, nor of how a file was cut into parts.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from training.datasets.codes import problem
from training.datasets.convert import Converter
from training.datasets.encodings import as_in, is_unicode
from training.datasets.examples import Kind, Record
from training.datasets.layouts import see
from training.datasets.limits import FREE_UNPACKED, MAX_RATIO, PROBLEMS_KEPT
from training.datasets.looking import legacy_encoding, look_into, other_sheets
from training.datasets.problems import DataError, Problem
from training.datasets.readers import read_rows
from training.datasets.readers.archive import unpack_each
from training.datasets.readers.rows import Note, Row, Sheets, Skipped
from training.datasets.sources import TEXTUAL, Reading, kind_of

_BEAT = 0.2  # seconds between two words of how far it is
_ROW_COST = 16  # bytes that a row counts at least, so that rows of nothing end, too


class Part(msgspec.Struct):
    """Of a source; of JSON Lines, the lines that begin in [start, end)."""

    file: int
    path: str
    name: str
    reading: Reading
    start: int = 0
    end: int | None = None
    first: int = 1  # the number of the first line


class PartResult(msgspec.Struct):
    read: int  # rows found
    usable: int  # of them, examples
    problems: dict[str, int]
    unused: dict[
        str, list[str]
    ] = {}  # of each file, or of each in the archive, fields of which nothing was used


class _Writer:
    def __init__(
        self, part: Part, shard: BinaryIO, problems: BinaryIO, report: Callable[[int], None]
    ) -> None:
        self._part, self._shard, self._problems, self._report = part, shard, problems, report
        self._encode = msgspec.json.Encoder().encode
        self._left = FREE_UNPACKED + MAX_RATIO * Path(part.path).stat().st_size
        self._said, self._done = time.monotonic(), part.start
        self.read = self.usable = 0
        self.counts: Counter[str] = Counter()
        self.unused: dict[str, list[str]] = {}

    def rows(self, path: Path, name: str, reading: Reading) -> None:
        """All of a file's. What stops the reading is a problem of the file; what was read is kept."""
        part = self._part
        inside = name if name != part.name else ""
        if not part.start and reading.layout in TEXTUAL and not is_unicode(reading.encoding):
            reason = legacy_encoding(reading.encoding)
            self.of_file("legacy_encoding", name, reason, as_in(path, reading.encoding))
        converter = Converter(reading, name)
        before, problems_before = self.read, self.counts.total()
        try:
            for row in read_rows(path, reading, part.start, part.end, part.first):
                if isinstance(row, Sheets):
                    if len(row.names) > 1:
                        self.of_file("other_sheets", name, other_sheets(*row.names))
                        problems_before += 1  # it says nothing of what is in this one
                    continue
                if isinstance(row, Note):
                    self.of_file(row.code, name, row.reason)
                    continue
                self.beat(None if inside else row.done)
                if isinstance(row, Skipped):
                    continue
                if isinstance(row, Row):
                    example, group, found = converter.convert(row.line, row.value)
                    for each in found:
                        self.problem(each)
                    self.read += 1
                    if example is not None:
                        self._record(Record(example, part.file, row.line, inside, group), name)
                elif row.code == "file_too_long":
                    raise DataError(row.code, row.reason)
                else:
                    self.read += 1
                    self.problem(problem(row.code, name, row.line, "", row.excerpt, row.reason))
                self._spend(_ROW_COST)
        except MemoryError:
            self.of_file("file_too_complex", name, "Reading it needs too much memory.")
        except DataError as error:
            self.of_file(error.code, name, error.message)
        if converter.unused:
            self.unused[name] = converter.unused
        nothing = self.read == before and self.counts.total() == problems_before
        if nothing and part.end is None:  # of a range, the others may have what it has not
            self.of_file("empty_file", name, "There is nothing to read in it.")

    def of_file(self, code: str, name: str, reason: str, excerpt: str = "") -> None:
        self.problem(problem(code, name, 0, "", excerpt, reason))

    def problem(self, found: Problem) -> None:
        self.counts[found.code] += 1
        if self.counts[found.code] <= PROBLEMS_KEPT:
            self._problems.write(_line(self._encode, found))

    def _record(self, record: Record, name: str) -> None:
        try:
            data = self._encode(record)
        except UnicodeEncodeError:
            reason = "It has characters that do not exist."
            self.problem(problem("invalid_encoding", name, record.line, "", "", reason))
            return
        self.usable += 1
        self._shard.write(data)
        self._shard.write(b"\n")
        self._spend(len(data))

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise DataError("expands_too_much", "The file unpacks to far more than it could sensibly hold.")

    def beat(self, done: int | None) -> None:
        """`done`: bytes of the source that are behind; None: as many as before."""
        self._done = self._done if done is None else done
        now = time.monotonic()
        if now - self._said > _BEAT:
            self._said = now
            self._report(max(0, self._done - self._part.start))


def _line(encode: Callable[[object], bytes], found: Problem) -> bytes:
    return encode(found) + b"\n"


def read_part(part: Part, folder: Path, report: Callable[[int], None]) -> PartResult:
    """Writes `records` and `problems` in the folder. `report` hears how many bytes of the part are behind.

    Raises OSError where they cannot be written, and what `report` raises.
    """
    with (folder / "records").open("wb") as shard, (folder / "problems").open("wb") as problems:
        writer = _Writer(part, shard, problems, report)
        if part.reading.layout == "zip":
            _read_archive(part, folder / "member", writer)
        else:
            writer.rows(Path(part.path), part.name, part.reading)
    return PartResult(writer.read, writer.usable, dict(writer.counts), writer.unused)


def _read_archive(part: Part, member_path: Path, writer: _Writer) -> None:
    kind: Kind = kind_of(part.reading.shape)
    read = False
    try:
        for member in unpack_each(Path(part.path), part.name, member_path):
            read = True
            writer.beat(member.behind)  # of a thousand pictures, which have no rows, there is a word, too
            if member.refused is not None:
                writer.of_file(member.refused.code, member.name, member.refused.message)
                continue
            seen = see(member_path, member.name)
            if seen.layout == "zip":
                writer.of_file("nested_archive", member.name, "It is an archive within an archive.")
                continue
            found = look_into(member_path, member.name, seen)
            if found.reading is None:
                writer.of_file("unreadable_member", member.name, found.reason)
            elif kind_of(found.reading.shape) != kind:
                reason = f"Read as {found.reading.shape}, it does not fit the others, which are {kind}."
                writer.of_file("mixed_kinds", member.name, reason)
            else:
                writer.rows(member_path, member.name, _as_asked(found.reading, found.columns, part.reading))
    except DataError as error:
        writer.of_file(error.code, part.name, error.message)
    else:
        if not read:
            writer.of_file("empty_file", part.name, "There is no file in the archive.")
    finally:
        member_path.unlink(missing_ok=True)


def _as_asked(found: Reading, columns: list[str], asked: Reading) -> Reading:
    """As a member was found to be, with the person's columns where it has them."""
    if asked.columns and all(column in columns for column in asked.columns.values() if column):
        found.shape, found.columns = asked.shape, asked.columns
    return found
