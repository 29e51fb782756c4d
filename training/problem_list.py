"""The problems a report found, read from its folder line by line: a page of them, all of them as JSON Lines or CSV.

Knows nothing of requests.
"""

from __future__ import annotations

import asyncio
import csv
import io
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from training.datasets.problems import Problem

FIELDS = tuple(field.name for field in msgspec.structs.fields(Problem))
_decoder = msgspec.json.Decoder(Problem)
_BATCH = 500
# What a spreadsheet would take for a formula, and run.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def read_problems(folder: Path, code: str = "") -> Iterator[Problem]:
    """In the order in which they were found; `code`: only those. None where the file is gone."""
    try:
        with (folder / "problems.jsonl").open("rb") as lines:
            for line in lines:
                problem = _decoder.decode(line)
                if not code or problem.code == code:
                    yield problem
    except FileNotFoundError:
        return


def first_error(folder: Path) -> Problem | None:
    """The first problem that leaves an example out."""
    return next((problem for problem in read_problems(folder) if problem.severity == "error"), None)


def counts_of(report: Mapping[str, Any], severity: str) -> Counter[str]:
    """How many problems a report's result has of a severity, by code."""
    severities = report.get("severities") or {}
    counts = {count["name"]: count["count"] for count in report.get("problems") or []}
    return Counter({code: count for code, count in counts.items() if severities.get(code) == severity})


def spoken(problem: Problem) -> str:
    """ "train.jsonl, line 65: There is no list of messages. Give the example ... (missing_messages_list)" """
    line = f", line {problem.line}" if problem.line else ""
    return f"{problem.file}{line}: {problem.reason} {problem.remedy} ({problem.code})"


def page_of_problems(folder: Path, code: str, page: int, size: int) -> tuple[list[Problem], bool]:
    """Page `page`, from 1, and whether there are more."""
    found = list(islice(read_problems(folder, code), (page - 1) * size, page * size + 1))
    return found[:size], len(found) > size


async def jsonl(folder: Path, code: str = "") -> AsyncIterator[bytes]:
    async for batch in _batches(folder, code):
        yield b"".join(msgspec.json.encode(problem) + b"\n" for problem in batch)


async def csv_rows(folder: Path, code: str = "") -> AsyncIterator[bytes]:
    # Excel takes a file for UTF-8 only with this mark.
    yield "\ufeff".encode() + _csv_lines([list(FIELDS)])
    async for batch in _batches(folder, code):
        yield _csv_lines([[_cell(getattr(problem, name)) for name in FIELDS] for problem in batch])


async def _batches(folder: Path, code: str) -> AsyncIterator[list[Problem]]:
    problems = read_problems(folder, code)
    while batch := await asyncio.to_thread(lambda: list(islice(problems, _BATCH))):
        yield batch


def _cell(value: object) -> str:
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _csv_lines(rows: list[list[str]]) -> bytes:
    written = io.StringIO()
    csv.writer(written).writerows(rows)
    return written.getvalue().encode()
