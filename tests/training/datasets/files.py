"""Real files of every layout, written by the libraries that people's programs use, and what reading made of them."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import docx
import msgspec
import openpyxl
import pyarrow
import pyarrow.parquet
from pypdf import PdfReader, PdfWriter
from reportlab.pdfgen.canvas import Canvas

from training.datasets.detect import detect
from training.datasets.examples import Record
from training.datasets.problems import Problem
from training.datasets.reading import ReadSummary, read_sources
from training.datasets.sources import Reading, Source


def chat(question: str, answer: str, **more: object) -> dict[str, object]:
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        **more,
    }


def jsonl(rows: Iterable[object]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def xlsx(rows: Sequence[Sequence[object]], title: str = "Sheet") -> bytes:
    return workbook({title: rows})


def workbook(sheets: Mapping[str, Sequence[Sequence[object]]], hidden: Collection[str] = ()) -> bytes:
    made = openpyxl.Workbook()
    made.remove(made.active)
    for title, rows in sheets.items():
        sheet = made.create_sheet(title)
        sheet.sheet_state = "hidden" if title in hidden else "visible"
        for row in rows:
            sheet.append(row)
    file = io.BytesIO()
    made.save(file)
    return file.getvalue()


def parquet(rows: list[dict[str, object]]) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


def pdf(pages: Sequence[str], title: str = "", password: str = "") -> bytes:
    file = io.BytesIO()
    canvas = Canvas(file)
    canvas.setTitle(title)
    for page in pages:
        canvas.drawString(72, 720, page)
        canvas.showPage()
    canvas.save()
    if not password:
        return file.getvalue()
    writer = PdfWriter(clone_from=PdfReader(file))
    writer.encrypt(password, algorithm="AES-256")
    locked = io.BytesIO()
    writer.write(locked)
    return locked.getvalue()


def word(paragraphs: Sequence[str], title: str = "") -> bytes:
    document = docx.Document()
    document.core_properties.title = title
    for paragraph in paragraphs:
        document.add_paragraph(paragraph)
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return file.getvalue()


class Read(msgspec.Struct):
    summary: ReadSummary
    records: list[Record]
    problems: list[Problem]

    @property
    def examples(self) -> list[object]:
        return [record.example for record in self.records]

    @property
    def codes(self) -> list[str]:
        return [problem.code for problem in self.problems]


def write(folder: Path, content: bytes | str) -> Path:
    path = folder / f"upload-{len(list(folder.iterdir()))}"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def source(folder: Path, content: bytes | str, name: str, reading: Reading | None = None) -> Source:
    """As it would be read if nobody corrected what was detected."""
    path = write(folder, content)
    if reading is None:
        reading = detect(path, name).reading
        assert reading is not None, detect(path, name).reason
    return Source(path, name, reading)


def read(folder: Path, *sources: Source, processes: int = 2) -> Read:
    summary = read_sources(list(sources), folder / "work", processes=processes)
    return what_was_read(folder / "work", summary)


def what_was_read(work: Path, summary: ReadSummary) -> Read:
    shards = sorted((work / "records").iterdir())
    assert [shard.name for shard in shards] == [f"{n:05d}.jsonl" for n in range(summary.shards)]
    assert sorted(path.name for path in work.iterdir()) == ["problems.jsonl", "records"]
    records = [
        msgspec.json.decode(line, type=Record) for shard in shards for line in shard.read_bytes().splitlines()
    ]
    problems = [
        msgspec.json.decode(line, type=Problem)
        for line in (work / "problems.jsonl").read_bytes().splitlines()
    ]
    assert summary.usable == len(records)
    return Read(summary, records, problems)
