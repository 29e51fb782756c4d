"""The formats that the guide shows are read as it says, without a problem, and it shows all that there are."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import get_args

import pytest

from tests.training.datasets.files import archive, parquet, pdf, read, source, word, write, xlsx
from training.datasets.detect import detect
from training.datasets.examples import LabelledExample
from training.datasets.sources import Layout, Shape, kind_of

_GUIDE = Path(__file__).parents[3] / "webapp/api/guides/14-formats.md"
_KINDS = {
    "Conversations": "chat",
    "Pairs of answers": "preference",
    "Labelled texts": "labelled",
    "Translations": "translation",
    "Documents": "document",
    "What belongs together": "labelled",
}


def _shown() -> list[tuple[str, str, str]]:
    """Kind, ending of the name and content of each example."""
    parts = re.split(r"^## (.+)\n", _GUIDE.read_text(), flags=re.MULTILINE)[1:]
    return [
        (_KINDS[title], ending, content)
        for title, part in zip(parts[::2], parts[1::2], strict=True)
        for ending, content in re.findall(r"```(\w+)\n(.+?)```", part, re.DOTALL)
    ]


SHOWN = _shown()
TABLES = [(kind, content) for kind, ending, content in SHOWN if ending == "csv"]


@pytest.mark.parametrize(("kind", "ending", "content"), SHOWN)
def test_what_the_guide_shows_is_read_without_a_problem(
    tmp_path: Path, kind: str, ending: str, content: str
) -> None:
    name = f"data.{ending}"
    detected = detect(write(tmp_path, content), name)

    done = read(tmp_path, source(tmp_path, content, name))

    assert detected.reading is not None
    assert kind_of(detected.reading.shape) == kind
    assert detected.notices == []
    assert done.problems == []
    rows = {
        "jsonl": content.count("\n"),
        "json": content.count("instruction"),
        "csv": content.count("\n") - 1,
    }
    assert len(done.examples) == rows.get(ending, 1)


@pytest.mark.parametrize(("kind", "content"), TABLES)
def test_tables_of_the_guide_are_read_the_same_from_a_workbook_and_from_parquet(
    tmp_path: Path, kind: str, content: str
) -> None:
    rows = list(csv.reader(io.StringIO(content), delimiter=";" if ";labels" in content else ","))
    records: list[dict[str, object]] = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    as_csv = source(tmp_path, content, "a.csv")

    done = read(
        tmp_path,
        as_csv,
        source(tmp_path, xlsx(rows), "a.xlsx"),
        source(tmp_path, parquet(records), "a.parquet"),
        source(tmp_path, archive({"a.csv": content.encode()}), "a.zip"),
    )

    assert done.examples == done.examples[: len(records)] * 4
    assert done.problems == []


@pytest.mark.parametrize(
    ("made", "name"), [(pdf(["Send it back."]), "a.pdf"), (word(["Send it back."]), "a.docx")]
)
def test_documents_that_no_page_can_show_are_read_too(tmp_path: Path, made: bytes, name: str) -> None:
    done = read(tmp_path, source(tmp_path, made, name))

    assert [example.text for example in done.examples] == ["Send it back."]  # type: ignore[attr-defined]
    assert done.problems == []


def test_the_guide_shows_every_format_that_is_read(tmp_path: Path) -> None:
    shapes, layouts = set(), set()
    for _, ending, content in SHOWN:
        reading = detect(write(tmp_path, content), f"a.{ending}").reading
        assert reading is not None
        shapes.add(reading.shape)
        layouts.add(reading.layout)

    assert shapes == set(get_args(Shape))
    assert layouts == set(get_args(Layout)) - {"xlsx", "parquet", "pdf", "docx", "zip"}
    text = _GUIDE.read_text()
    assert all(name in text for name in ("XLSX", "Parquet", "PDF", "DOCX", "ZIP", "TSV"))


def test_what_the_guide_says_of_labels_is_so(tmp_path: Path) -> None:
    (table,) = [content for _, content in TABLES if "labels" in content]
    (lines,) = [content for _, ending, content in SHOWN if ending == "jsonl" and '"labels"' in content]
    (together,) = [content for _, ending, content in SHOWN if '"user": "anna"' in content]

    done = read(tmp_path, source(tmp_path, table, "a.csv"), source(tmp_path, lines, "a.jsonl"))
    groups = [r.group for r in read(tmp_path, source(tmp_path, together, "b.jsonl")).records]

    expected = [LabelledExample(**{"labels": [], **row}) for row in map(json.loads, lines.splitlines())]
    assert done.examples == expected * 2
    assert groups == ["anna"] * 2
