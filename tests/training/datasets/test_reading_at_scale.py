"""Large inputs, several processes, and what may happen to them on the way."""

from __future__ import annotations

import io
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.training.datasets.files import chat, jsonl, pdf, read, source, what_was_read, write
from training.datasets import children as reading_processes
from training.datasets.child import ReadPart
from training.datasets.detect import detect
from training.datasets.part import Part, read_part
from training.datasets.problems import DataError
from training.datasets.process import Process
from training.datasets.progress import Cancelled
from training.datasets.reading import read_sources
from training.datasets.sources import Reading, Source

CHAT = Reading("jsonl", "chat")
MANY = jsonl([chat(f"question {n}", "answer") if n % 7 else {"messages": []} for n in range(700)])


def contents(work: Path) -> dict[str, bytes]:
    return {str(path.relative_to(work)): path.read_bytes() for path in work.rglob("*") if path.is_file()}


def children() -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if "training.datasets.child" in each.cmdline()]


LINES = st.sampled_from(
    [b"{}", b"", b"nonsense", b"\xff", *jsonl([chat("a", "b"), chat("ü" * 50, "c")]).splitlines()]
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    lines=st.lists(LINES, max_size=30),
    ending=st.sampled_from([b"\n", b"\r\n"]),
    last=st.booleans(),
    bom=st.booleans(),
    part=st.integers(1, 400),
)
def test_a_file_read_in_ranges_gives_what_it_gives_as_a_whole(
    tmp_path: Path, lines: list[bytes], ending: bytes, last: bool, bom: bool, part: int
) -> None:
    content = b"\xef\xbb\xbf" * bom + ending.join(lines) + ending * last
    path = tmp_path / "upload"
    path.write_bytes(content)
    sources = [Source(path, "a.jsonl", CHAT)]
    done = []
    for size in (2**20, part):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("training.datasets.plan.PART", size)
            done.append(what_was_read(tmp_path / "work", read_sources(sources, tmp_path / "work")))

    whole, ranges = done
    assert (whole.records, whole.problems) == (ranges.records, ranges.problems)
    assert whole.summary.problems == ranges.summary.problems


def test_the_number_of_processes_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.datasets.plan.PART", 10_000)
    sources = [source(tmp_path, MANY, "a.jsonl"), source(tmp_path, MANY, "b.jsonl")]
    here = tmp_path / "here"
    summaries = [read_sources(sources, here)]
    monkeypatch.setattr("training.datasets.reading.SMALL", 0)
    for processes in (1, 2):
        summaries.append(read_sources(sources, tmp_path / str(processes), processes=processes))

    assert summaries[0] == summaries[1] == summaries[2]
    assert contents(here) == contents(tmp_path / "1") == contents(tmp_path / "2")
    assert summaries[0].shards > 10
    assert summaries[0].problems == {"missing_messages_list": 200}


def test_small_texts_are_read_without_starting_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("training.datasets.children.read_parts", refuse)

    assert read(tmp_path, source(tmp_path, MANY, "a.jsonl")).summary.usable == 600


def test_progress_ends_at_all_of_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.datasets.reading.SMALL", 0)
    monkeypatch.setattr("training.datasets.plan.PART", 10_000)
    said: list[tuple[str, int, int]] = []

    read_sources(
        [source(tmp_path, MANY, "a.jsonl")], tmp_path / "work", progress=lambda *word: said.append(word)
    )

    done = [word[1] for word in said]
    assert done == sorted(done)
    assert said[-1] == ("reading", len(MANY), len(MANY))
    assert len(set(done)) > 3


@pytest.mark.parametrize("small", [0, 2**20])
def test_a_cancelled_reading_leaves_what_was_there_before_and_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    monkeypatch.setattr("training.datasets.reading.SMALL", small)
    monkeypatch.setattr("training.datasets.plan.PART", 10_000)
    work = tmp_path / "work"
    read_sources([source(tmp_path, jsonl([chat("a", "b")]), "a.jsonl")], work)
    before = contents(work)

    def cancel(stage: str, done: int, total: int) -> None:
        if done:
            raise Cancelled

    with pytest.raises(Cancelled):
        read_sources([source(tmp_path, MANY, "b.jsonl")], work, progress=cancel)

    assert contents(work) == before
    assert children() == []


def test_a_reading_process_that_is_killed_is_replaced_and_nothing_is_lost_or_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.datasets.plan.PART", 10_000)
    sources = [source(tmp_path, MANY, "a.jsonl")]
    read_sources(sources, tmp_path / "here")
    monkeypatch.setattr("training.datasets.reading.SMALL", 0)
    killed: list[int] = []

    def kill(stage: str, done: int, total: int) -> None:
        if done and not killed:
            killed.extend(child.pid for child in children())
            os.kill(killed[0], 9)

    read_sources(sources, tmp_path / "killed", progress=kill, processes=1)

    assert killed
    assert contents(tmp_path / "killed") == contents(tmp_path / "here")


def test_a_file_that_gets_nowhere_is_given_up_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.datasets.children.STALL", -1.0)
    sources = [
        source(tmp_path, pdf(["x"]), "a.pdf", Reading("pdf", "document")),
        source(tmp_path, "Text.", "b.txt"),
    ]

    done = read(tmp_path, *sources)

    assert [(problem.code, problem.file) for problem in done.problems] == [("file_too_complex", "a.pdf")]
    assert [record.file for record in done.records] == [1]
    assert children() == []


@pytest.mark.parametrize("place", ["00000", "00000/records", "00000/problems", "records"])
def test_links_that_a_reading_process_left_lead_nowhere(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one that its file has taken over: Landlock keeps it from what they lead to, and nothing its worker."""
    theirs = tmp_path / "theirs"
    read_sources([source(tmp_path, MANY, "a.jsonl")], theirs)
    before = contents(theirs)
    read_parts = reading_processes.read_parts

    def taken_over(*given: object, writes: list[Path], **more: object) -> None:
        read_parts(*given, writes=writes, **more)  # type: ignore[arg-type]
        left = writes[0] / place
        shutil.rmtree(left) if left.is_dir() else left.unlink()
        left.symlink_to(theirs / ("problems.jsonl" if "/" in place else "records"))

    monkeypatch.setattr("training.datasets.reading.SMALL", 0)
    monkeypatch.setattr("training.datasets.children.read_parts", taken_over)
    with pytest.raises(DataError) as refused:
        read_sources([source(tmp_path, MANY, "b.jsonl")], tmp_path / "work")
    assert refused.value.code == "file_not_safe"
    assert contents(theirs) == before
    assert list((tmp_path / "work").iterdir()) == []


def test_a_process_that_talks_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.datasets.process.MAX_ANSWER", 2**17)
    process = Process("tests.training.datasets.endless")
    try:
        heard = list(itertools.islice(iter(process.answers, None), 100))
    finally:
        process.end()
    assert len(heard) < 100
    assert not any(heard)


def test_a_file_that_unpacks_to_more_than_memory_holds_is_refused(tmp_path: Path) -> None:
    rows = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 256, pyarrow.int32()), ["x" * 20_000_000])
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": rows}), file, compression="zstd")

    done = read(tmp_path, source(tmp_path, file.getvalue(), "a.parquet", Reading("parquet", "document")))

    assert done.codes in (["file_too_complex"], ["expands_too_much"])


def test_a_process_that_reads_ends_with_the_one_that_asked(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless")  # nobody ever writes to it
    part = Part(0, str(tmp_path / "endless"), "a.jsonl", CHAT)
    child = subprocess.Popen(
        [sys.executable, "-m", "training.datasets.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert b"ready" in child.stdout.readline()
    child.stdin.write(msgspec.json.encode(ReadPart(part, str(tmp_path))) + b"\n")
    child.stdin.flush()

    child.stdin.close()

    assert child.wait(60) == 0
    child.stdout.close()


def test_reading_processes_import_neither_django_nor_torch() -> None:
    heavy = ("django", "torch", "numpy", "pyarrow")
    program = f"import sys, training.datasets.child; print([m for m in {heavy} if m in sys.modules])"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_a_line_of_any_length_is_skipped_and_the_next_one_read(tmp_path: Path) -> None:
    good = jsonl([chat("a", "b")])
    path = tmp_path / "upload"
    with path.open("wb") as file:
        file.write(good + b'{"messages": "')
        for _ in range(40):
            file.write(b"x" * 2**20)
        file.write(b'"}\n' + good)

    done = read(tmp_path, Source(path, "a.jsonl", CHAT))

    assert [(problem.code, problem.line) for problem in done.problems] == [("line_too_long", 2)]
    assert [record.line for record in done.records] == [1, 3]
    assert len(done.problems[0].excerpt) <= 160


@pytest.mark.parametrize(
    ("name", "begin", "end", "reading", "line"),
    [
        ("a.jsonl", '{"messages": "', '"}\n', CHAT, 1),
        ("a.json", '[{"messages": "', '"}]', Reading("json", "chat"), 1),
        ("a.csv", 'text,label\n"', '",ham\n', Reading("csv", "labelled"), 2),
        ("a.csv", "text,label\n", ",ham\n", Reading("csv", "labelled"), 2),
    ],
)
def test_a_row_that_takes_minutes_to_skip_is_not_given_up_and_a_look_does_not_wait_for_its_end(
    name: str,
    begin: str,
    end: str,
    reading: Reading,
    line: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "upload"
    with path.open("wb") as file:
        file.write(begin.encode())
        for _ in range(80):
            file.write(b"x" * 2**20)
        file.write(end.encode())
    # What is said within the row is heard: each of these words stands for the seconds that gigabytes take.
    monkeypatch.setattr("training.datasets.part._BEAT", -1.0)
    heard: list[int] = []

    part = Part(0, str(path), name, reading)
    done = read_part(part, tmp_path, heard.append)

    assert done.problems == {"line_too_long": 1}
    assert json.loads((tmp_path / "problems").read_bytes())["line"] == line
    assert len([at for at in heard if 2**24 < at < 70 * 2**20]) >= 2
    looked = detect(path, name)
    assert looked.reading is None
    assert "longer than 16 MB" in looked.reason


def test_problems_are_kept_up_to_a_thousand_of_each_code_and_counted_exactly(tmp_path: Path) -> None:
    rows = jsonl([{"messages": []}] * 1_500 + [{"messages": [1]}])

    done = read(tmp_path, source(tmp_path, rows, "a.jsonl", CHAT), source(tmp_path, rows, "b.jsonl", CHAT))

    assert done.summary.problems["missing_messages_list"] == 3_000
    assert done.codes.count("missing_messages_list") == 1_000
    assert done.codes.count("data_type") == 2
    assert [problem.line for problem in done.problems[:1_000]] == list(range(1, 1_001))


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """As a full disk or quota says it, for this process and those it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("small", [0, 2**20])
def test_a_full_disk_is_said_and_nothing_half_made_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    monkeypatch.setattr("training.datasets.reading.SMALL", small)
    sources = [source(tmp_path, MANY, "a.jsonl")]

    with files_no_larger_than(20_000), pytest.raises(DataError) as raised:
        read_sources(sources, tmp_path / "work")

    assert raised.value.code == "disk_full"
    assert raised.value.message.endswith(".")
    assert contents(tmp_path / "work") == {}


def test_what_a_killed_reading_left_behind_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "work" / "reading.tmp" / "00000").mkdir(parents=True)
    (tmp_path / "work" / "reading.tmp" / "00000" / "records").write_bytes(b"half")

    done = read(tmp_path, source(tmp_path, jsonl([chat("a", "b")]), "a.jsonl"))

    assert done.summary.usable == 1


def test_no_files_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="upload one first"):
        read_sources([], tmp_path)


def test_a_file_that_is_gone_is_an_error_and_no_problem_of_its_data(tmp_path: Path) -> None:
    path = write(tmp_path, b"x")
    path.unlink()

    with pytest.raises(FileNotFoundError):
        read_sources([Source(path, "a.txt", Reading("text", "document"))], tmp_path / "work")


@pytest.mark.parametrize("encoding", ["klingon", "base64", ""])
def test_an_encoding_that_does_not_exist_is_an_error(tmp_path: Path, encoding: str) -> None:
    reading = Reading("jsonl", "chat", encoding)

    with pytest.raises(DataError, match="no encoding"):
        read_sources([source(tmp_path, MANY, "a.jsonl", reading)], tmp_path / "work")
