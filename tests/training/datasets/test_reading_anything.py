"""Any bytes under any name, read in any way, end soon and in typed errors."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.training.datasets.files import archive, chat, jsonl, parquet, pdf, what_was_read, word, xlsx
from training.datasets.looking import look_into
from training.datasets.problems import DataError
from training.datasets.readers import read_rows
from training.datasets.readers.rows import Flaw, Note, Row, Sheets, Skipped
from training.datasets.reading import read_sources
from training.datasets.shapes import FIELDS
from training.datasets.sources import Layout, Reading, Shape, Source

EXTENSIONS = (
    "jsonl",
    "json",
    "csv",
    "tsv",
    "xlsx",
    "parquet",
    "txt",
    "md",
    "html",
    "pdf",
    "docx",
    "zip",
    "exe",
    "",
)
TEXTUAL: tuple[Layout, ...] = ("jsonl", "json", "csv", "text", "markdown", "html")
SHAPES: tuple[Shape, ...] = tuple(FIELDS)
BEGINNINGS = (
    *(b"", b"{", b'[{"messages": [', b"text,label\n", b"<html>"),
    *(b"%PDF-1.4\n", b"PK\x03\x04", b"PAR1", b"\xff\xfe", b"\xef\xbb\xbf"),
)
ANY = st.builds(lambda start, rest: start + rest, st.sampled_from(BEGINNINGS), st.binary(max_size=300))
FIXTURE = [HealthCheck.function_scoped_fixture]


@settings(max_examples=150, suppress_health_check=FIXTURE, deadline=None)
@given(content=ANY, extension=st.sampled_from(EXTENSIONS))
def test_any_bytes_under_any_name_are_something_or_nothing(
    tmp_path: Path, content: bytes, extension: str
) -> None:
    path = tmp_path / "upload"
    path.write_bytes(content)
    started = time.process_time()

    detected = look_into(path, f"a.{extension}", scratch=tmp_path)

    assert time.process_time() - started < 5
    assert (detected.reading is None) <= bool(detected.reason)
    if detected.reading is not None and detected.reading.layout in TEXTUAL:
        what_was_read(
            tmp_path / "work", read_sources([Source(path, "a", detected.reading)], tmp_path / "work")
        )


@settings(max_examples=150, suppress_health_check=FIXTURE, deadline=None)
@given(
    content=ANY,
    layout=st.sampled_from(TEXTUAL),
    shape=st.sampled_from(SHAPES),
    encoding=st.sampled_from(["utf-8", "utf-16", "utf-32", "cp1252", "shift_jis", "gb18030"]),
)
def test_any_bytes_read_in_any_way_give_records_and_problems(
    tmp_path: Path, content: bytes, layout: Layout, shape: Shape, encoding: str
) -> None:
    path = tmp_path / "upload"
    path.write_bytes(content)
    source = Source(path, "a", Reading(layout, shape, encoding))

    done = what_was_read(tmp_path / "work", read_sources([source], tmp_path / "work"))

    assert done.records or done.problems


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "role",
                    "content",
                    "from",
                    "value",
                    "type",
                    "text",
                    "weight",
                    "tool_calls",
                    "messages",
                    "name",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
NAMES = st.sampled_from(
    sorted(
        {name for fields in FIELDS.values() for field in fields.values() for name in field.names[:2]}
        | {"tools"}
    )
)


@settings(max_examples=100, suppress_health_check=FIXTURE, deadline=None)
@given(
    rows=st.lists(st.dictionaries(NAMES, VALUES, max_size=5) | VALUES, min_size=1, max_size=5),
    shape=st.sampled_from(SHAPES),
)
def test_any_json_is_an_example_or_has_a_problem(tmp_path: Path, rows: list[object], shape: Shape) -> None:
    path = tmp_path / "upload"
    path.write_bytes(jsonl(rows))
    source = Source(path, "a", Reading("jsonl", shape))

    done = what_was_read(tmp_path / "work", read_sources([source], tmp_path / "work"))

    assert done.summary.read == len(rows)
    usable = {record.line for record in done.records}
    broken = {problem.line for problem in done.problems if problem.severity == "error"}
    assert usable | broken == set(range(1, len(rows) + 1))
    assert not usable & broken


REAL: dict[Layout, bytes] = {
    "pdf": pdf(["Hello"]),
    "docx": word(["Hello"]),
    "xlsx": xlsx([["text", "label"], ["a", "b"]]),
    "parquet": parquet([chat("a", "b")]),
    "zip": archive({"a.txt": b"Hello", "b.jsonl": jsonl([chat("a", "b")])}),
}


@pytest.mark.parametrize("layout", REAL)
@settings(max_examples=25, derandomize=True, suppress_health_check=FIXTURE, deadline=None)
@given(data=st.data())
def test_a_real_file_with_a_few_wrong_bytes_is_read_or_refused(
    tmp_path: Path, layout: Layout, data: st.DataObject
) -> None:
    content = bytearray(REAL[layout])
    for place, byte in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=8)
    ):
        content[place] = byte
    path = tmp_path / "upload"
    path.write_bytes(
        content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    )

    look_into(path, f"a.{layout}", scratch=tmp_path)
    if layout != "zip":
        with contextlib.suppress(DataError):
            assert all(
                isinstance(row, Row | Flaw | Skipped | Sheets | Note)
                for row in read_rows(path, Reading(layout, "document"))
            )
