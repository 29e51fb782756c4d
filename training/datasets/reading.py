"""Reads the sources of a dataset: Records in shards and Problems in a file, in the sources' order.

Their content does not depend on how many processes read. Nothing half-made is ever where the whole should be. Knows
nothing of what comes after.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import msgspec

from training.datasets import children
from training.datasets.aside import disk_full
from training.datasets.child import ReadPart
from training.datasets.children import Asked
from training.datasets.codes import CODES, problem
from training.datasets.encodings import known
from training.datasets.examples import Kind
from training.datasets.limits import PROBLEMS_KEPT, SMALL
from training.datasets.part import Part, PartResult, read_part
from training.datasets.plan import plan
from training.datasets.problems import DataError, Problem
from training.datasets.progress import Progress, silent
from training.datasets.readers import FRAGILE
from training.datasets.sources import Source, kind_of


class ReadSummary(msgspec.Struct):
    kind: Kind
    read: int  # rows found
    usable: int  # of them, examples in the shards
    problems: dict[str, int]  # by code, exact, however many of them problems.jsonl holds
    severities: dict[str, str]  # of each code
    shards: int


def read_sources(
    sources: list[Source],
    folder: Path,
    *,
    unreadable: Sequence[Problem] = (),
    progress: Progress = silent,
    processes: int = 2,
) -> ReadSummary:
    """Writes `records/00000.jsonl`, ... and `problems.jsonl` in the folder, in place of earlier ones.

    `unreadable`: what is wrong with files beside them that cannot be read at all, which is said first. `progress` hears
    of the bytes of the sources. Raises DataError `no_files`, `unknown_encoding`, `file_not_safe` and `disk_full`,
    OSError, and what `progress` raises.
    """
    if not sources:
        raise DataError("no_files", "There is no file to read: upload one first.")
    for source in sources:
        if not known(source.reading.encoding):
            raise DataError(
                "unknown_encoding", f"There is no encoding {source.reading.encoding!r}: choose another."
            )
    work = folder / "reading.tmp"
    try:
        shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
        (work / "records").mkdir(parents=True)
        summary = _Reading(sources, unreadable, work, progress, processes).run()
        shutil.rmtree(folder / "records", ignore_errors=True)
        (work / "records").rename(folder / "records")
        (work / "problems.jsonl").replace(folder / "problems.jsonl")
        return summary
    except OSError as error:
        raise disk_full(error) or error from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


class _Reading:
    def __init__(
        self,
        sources: list[Source],
        unreadable: Sequence[Problem],
        work: Path,
        progress: Progress,
        processes: int,
    ) -> None:
        self._sources, self._unreadable, self._work, self._processes = sources, unreadable, work, processes
        self._kind: Kind = kind_of(sources[0].reading.shape)
        self._progress = progress
        self._total = sum(source.path.stat().st_size for source in sources)
        self._behind = 0  # bytes of the parts that are done
        self._under_way: dict[int, int] = {}
        self._results: dict[int, PartResult] = {}
        self._parts: dict[int, Part] = {}

    def run(self) -> ReadSummary:
        self._tell()
        textual = sum(
            source.path.stat().st_size for source in self._sources if source.reading.layout not in FRAGILE
        )
        elsewhere: list[tuple[int, Part]] = []
        parts = enumerate(plan(self._sources, self._tell))
        number = -1
        for number, part in parts:
            if kind_of(part.reading.shape) != self._kind:
                self._mixed(number, part)
            elif part.reading.layout not in FRAGILE and textual <= SMALL:
                self._read_here(number, part)
            else:
                elsewhere.append((number, part))
        if elsewhere:
            asks = (Asked(number, ReadPart(part, str(self._folder(number)))) for number, part in elsewhere)
            sources = {source.path.parent for source in self._sources}
            children.read_parts(
                asks, self._processes, self._advance, self._finish, reads=sources, writes=[self._work]
            )
        return self._gather(number + 1)

    def _folder(self, number: int) -> Path:
        folder = self._work / f"{number:05d}"
        folder.mkdir(exist_ok=True)
        return folder

    def _read_here(self, number: int, part: Part) -> None:
        result = read_part(part, self._folder(number), lambda done: self._advance(number, done))
        self._finish(Asked(number, ReadPart(part, "")), result)

    def _advance(self, number: int, done: int) -> None:
        if number >= 0:
            self._under_way[number] = done
        self._tell()

    def _tell(self) -> None:
        done = min(self._total, self._behind + sum(self._under_way.values()))
        self._progress("reading", done, self._total)

    def _finish(self, asked: Asked, result: PartResult | str) -> None:
        part = asked.ask.part
        if isinstance(result, str):
            result = self._refuse(asked.number, part, "file_too_complex", result)
        self._results[asked.number], self._parts[asked.number] = result, part
        self._under_way.pop(asked.number, None)
        end = Path(part.path).stat().st_size if part.end is None else part.end
        self._behind += end - part.start
        self._tell()

    def _mixed(self, number: int, part: Part) -> None:
        reason = f"The file is read as {kind_of(part.reading.shape)}, and the first file as {self._kind}."
        result = self._refuse(number, part, "mixed_kinds", reason) if not part.start else PartResult(0, 0, {})
        self._finish(Asked(number, ReadPart(part, "")), result)

    def _refuse(self, number: int, part: Part, code: str, reason: str) -> PartResult:
        """One problem in place of whatever of the part was read."""
        folder = self._folder(number)
        (folder / "records").unlink(missing_ok=True)
        found = problem(code, part.name, 0, "", "", reason)
        (folder / "problems").write_bytes(msgspec.json.encode(found) + b"\n")
        return PartResult(0, 0, {code: 1})

    def _name_the_empty(self, parts: int) -> None:
        """Files in ranges of which none has anything; of the others, their one part says so."""
        something = {
            self._parts[number].file
            for number, result in self._results.items()
            if result.read or result.problems
        }
        for number in range(parts):
            part = self._parts[number]
            if part.end is not None and not part.start and part.file not in something:
                reason = "There is nothing to read in it."
                self._results[number] = self._refuse(number, part, "empty_file", reason)

    def _require_plain(self) -> None:
        """A process that a file has taken over is kept from others, and may leave links to them for whoever is not.

        As `webapp.core.plain_files.require_plain` does, which datasets, being plain Python, may not import.
        """
        for above, folders, files in os.walk(self._work):
            for name in (*folders, *files):
                kind = os.lstat(os.path.join(above, name)).st_mode
                if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                    raise DataError(
                        "file_not_safe",
                        "One of these files made the program that reads it do what it never does. Remove those"
                        " that you do not trust.",
                    )

    def _gather(self, parts: int) -> ReadSummary:
        """The parts' shards under their last names, and their problems in one file."""
        self._require_plain()
        self._name_the_empty(parts)
        counts = Counter(problem.code for problem in self._unreadable)
        unused: dict[tuple[int, str], dict[str, None]] = {}
        written = counts.copy()
        shards = 0
        with (self._work / "problems.jsonl").open("wb") as problems:
            problems.writelines(msgspec.json.encode(problem) + b"\n" for problem in self._unreadable)
            for number in range(parts):
                counts.update(self._results[number].problems)
                folder = self._work / f"{number:05d}"
                for line in _lines(folder / "problems"):
                    code = msgspec.json.decode(line, type=Problem).code
                    written[code] += 1
                    if written[code] <= PROBLEMS_KEPT:
                        problems.write(line)
                if self._results[number].usable:
                    (folder / "records").rename(self._work / "records" / f"{shards:05d}.jsonl")
                    shards += 1
                for name, fields in self._results[number].unused.items():
                    unused.setdefault((self._parts[number].file, name), {}).update(dict.fromkeys(fields))
            counts.update({"unused_fields": len(unused)} if unused else {})
            for (_, name), names in islice(unused.items(), PROBLEMS_KEPT):
                reason = "What these fields hold is not learnt."
                found = problem("unused_fields", name, 0, "", ", ".join(names), reason)
                problems.write(msgspec.json.encode(found) + b"\n")
        return ReadSummary(
            self._kind,
            sum(result.read for result in self._results.values()),
            sum(result.usable for result in self._results.values()),
            dict(counts),
            {code: CODES[code].severity for code in counts},
            shards,
        )


def _lines(path: Path) -> Iterator[bytes]:
    if path.exists():
        with path.open("rb") as file:
            yield from file
