"""What a file seems to be, whatever its name says."""

from __future__ import annotations

import random
import selectors
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.training.datasets.files import archive, chat, jsonl, parquet, pdf, word, write, xlsx
from training.datasets import looking
from training.datasets.detect import detect
from training.datasets.sources import Detected

CHAT = [chat("Wo ist der Schlüssel?", "Im Büro.")] * 3
TABLE = [["text", "label"], ["I like it", "good"], ["I hate it", "bad"]]
ROWS: list[dict[str, object]] = [{"text": text, "label": label} for text, label in TABLE[1:]]
CSV = "text,label\nI like it,good\nI hate it,bad\n"
PAGE = "<!doctype html><html><head><title>T</title></head><body><p>Hello there</p></body></html>"


def found(folder: Path, content: bytes | str, name: str) -> Detected:
    return detect(write(folder, content), name)


@pytest.mark.parametrize(
    ("content", "name", "layout", "shape"),
    [
        (jsonl(CHAT), "a.jsonl", "jsonl", "chat"),
        (b"[" + b",\n".join(jsonl([row]).strip() for row in CHAT) + b"]", "a.json", "json", "chat"),
        (CSV, "a.csv", "csv", "labelled"),
        (xlsx(TABLE), "a.xlsx", "xlsx", "labelled"),
        (parquet(ROWS), "a.parquet", "parquet", "labelled"),
        ("Once upon a time, there was a king.\n\nHe had a daughter.\n", "a.txt", "text", "document"),
        ("# King\n\nHe had a daughter.\n", "a.md", "markdown", "document"),
        (PAGE, "a.html", "html", "document"),
        (pdf(["Hello there"]), "a.pdf", "pdf", "document"),
        (word(["Hello there"]), "a.docx", "docx", "document"),
        (archive({"a.jsonl": jsonl(CHAT)}), "a.zip", "zip", "chat"),
        (archive({"a.txt": b"Hello there"}), "a.zip", "zip", "document"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 12 else "",
)
def test_every_layout_is_known_by_its_content(
    tmp_path: Path, content: bytes | str, name: str, layout: str, shape: str
) -> None:
    honest = found(tmp_path, content, name)
    nameless = found(tmp_path, content, "upload")

    assert honest.reading is not None
    assert nameless.reading is not None
    assert (honest.reading.layout, honest.reading.shape) == (layout, shape)
    assert nameless.reading.layout == ("text" if layout == "markdown" else layout)
    assert honest.rows
    assert honest.notices == []


@pytest.mark.parametrize(
    ("content", "name", "layout"),
    [
        (jsonl(CHAT), "a.csv", "jsonl"),
        (pdf(["Hello there"]), "a.txt", "pdf"),
        (xlsx(TABLE), "a.csv", "xlsx"),
        (CSV, "a.xlsx", "csv"),
        (PAGE, "a.docx", "html"),
        (parquet(ROWS), "a.jsonl", "parquet"),
    ],
    ids=["jsonl", "pdf", "xlsx", "csv", "html", "parquet"],
)
def test_a_name_that_lies_is_read_by_content_and_said(
    tmp_path: Path, content: bytes | str, name: str, layout: str
) -> None:
    detected = found(tmp_path, content, name)

    assert detected.reading is not None
    assert detected.reading.layout == layout
    (notice,) = detected.notices
    assert f"name ends in .{name.rpartition('.')[2]}, but the file is" in notice


@pytest.mark.parametrize(
    ("content", "name", "layout"),
    [
        (archive({"a.pdf": pdf(["Hello there"])}, zipfile.ZIP_STORED), "a.zip", "zip"),
        ("How to recognise files.\n\n%PDF-1.7 begins a PDF.\n", "a.txt", "text"),
        ("question,answer\nHow does a PDF begin?,With %PDF-1.4\n", "a.csv", "csv"),
        (b"\n" + pdf(["Hello there"]), "a.txt", "pdf"),
        (b"\x1b%-12345X@PJL JOB\r\n" + pdf(["Hello there"]), "a.pdf", "pdf"),
    ],
    ids=["zip", "text", "csv", "blank", "printer"],
)
def test_what_holds_a_pdf_or_tells_of_one_is_none(
    tmp_path: Path, content: bytes | str, name: str, layout: str
) -> None:
    detected = found(tmp_path, content, name)

    assert detected.reading is not None
    assert detected.reading.layout == layout


def test_json_on_one_line_is_called_by_its_name_and_read_value_by_value(tmp_path: Path) -> None:
    detected = found(
        tmp_path, '{"prompt": "a", "completion": "b"}{"prompt": "c", "completion": "d"}', "a.json"
    )

    assert [row["prompt"] for row in detected.rows] == ["a", "c"]


@pytest.mark.parametrize(
    ("row", "shape", "columns"),
    [
        (chat("a", "b"), "chat", {"messages": "messages"}),
        ({"prompt": "a", "completion": "b"}, "prompt_completion", {"prompt": "prompt", "completion": "completion"}),
        ({"Question": "a", "Answer": "b"}, "prompt_completion", {"prompt": "Question", "completion": "Answer"}),
        ({"conversations": [{"from": "human", "value": "a"}]}, "sharegpt", {"conversations": "conversations"}),
        ({"conversations": [{"role": "user", "content": "a"}]}, "chat", {"messages": "conversations"}),
        (
            {"instruction": "a", "input": "b", "output": "c"},
            "alpaca",
            {"instruction": "instruction", "input": "input", "output": "output"},
        ),
        (
            {"input": {"messages": []}, "preferred_output": [], "non_preferred_output": []},
            "preference",
            {"input": "input", "preferred_output": "preferred_output", "non_preferred_output": "non_preferred_output"},
        ),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            "preference",
            {"input": "prompt", "preferred_output": "chosen", "non_preferred_output": "rejected"},
        ),
        ({"text": "a", "label": "b"}, "labelled", {"text": "text", "label": "label"}),
        ({"text": "a", "labels": ["b"]}, "labelled", {"text": "text", "labels": "labels"}),
        ({"text": "a", "score": 3.5}, "labelled", {"text": "text", "value": "score"}),
        ({"review": "a", "label": 3.5}, "labelled", {"text": "review", "value": "label"}),
        ({"source": "a", "target": "b"}, "translation", {"source": "source", "target": "target"}),
        (
            {"translation": {"de": "a", "en": "b"}},
            "translation",
            {"source": "translation.de", "target": "translation.en"},
        ),
        ({"de": "Haus", "en": "house", "id": 1}, "translation", {"source": "de", "target": "en"}),
        ({"EN-gb": "house", "zh_Hant": "房子"}, "translation", {"source": "EN-gb", "target": "zh_Hant"}),
        (
            {"prompt": "a", "completion": "b", "it": "c", "en": "d"},
            "prompt_completion",
            {"prompt": "prompt", "completion": "completion"},
        ),
        ({"text": "a", "label": "b", "hi": 1, "my": 2}, "labelled", {"text": "text", "label": "label"}),
        ({"title": "a", "text": "b"}, "document", {"title": "title", "text": "text"}),
        ({"user": "u1", **chat("a", "b")}, "chat", {"messages": "messages", "group": "user"}),
    ],
)  # fmt: skip
def test_a_shape_is_known_by_the_names_of_its_fields(
    tmp_path: Path, row: dict[str, object], shape: str, columns: dict[str, str]
) -> None:
    detected = found(tmp_path, jsonl([row]), "a.jsonl")

    assert detected.reading is not None
    assert (detected.reading.shape, detected.reading.columns) == (shape, columns)


def test_fields_of_other_names_are_guessed_by_what_they_hold_and_the_guess_is_said(tmp_path: Path) -> None:
    rows = "".join(
        f"Frage Nummer {n} an den Kundendienst;{('Rechnung', 'Lieferung')[n % 2]}\n" for n in range(9)
    )

    detected = found(tmp_path, "Kundenfrage;Bereich\n" + rows, "a.csv")

    assert detected.reading is not None
    assert detected.reading.columns == {"text": "Kundenfrage", "label": "Bereich"}
    assert detected.columns == ["Kundenfrage", "Bereich"]
    assert "guess" in detected.notices[0]


def test_a_column_of_few_values_beside_texts_is_guessed_to_be_their_label_and_the_guess_is_said(
    tmp_path: Path,
) -> None:
    rows = [[f"Sentence {n} of a letter.", ("joy", "anger", "fear")[n % 3], "en"] for n in range(12)]
    table = [["text", "emotion", "lang"], *rows]
    more = [[*table[0], "when", "phase"], *([*row, "2024", str(n % 2)] for n, row in enumerate(rows))]

    mixed = found(tmp_path, xlsx(table), "a.xlsx")
    beside_others = found(tmp_path, xlsx([[row[0], *row[:2:-1], row[1]] for row in more]), "b.xlsx")
    sorted_by_it = found(tmp_path, xlsx([table[0], *rows[::3]]), "a.xlsx")
    corpus = found(tmp_path, xlsx([[row[0], row[2]] for row in table]), "a.xlsx")
    answered = found(
        tmp_path,
        jsonl({"text": row[0], "is_spam": ("no", "yes")[n % 2]} for n, row in enumerate(rows)),
        "a.jsonl",
    )

    assert mixed.reading is not None
    assert (mixed.reading.shape, mixed.reading.columns) == ("labelled", {"text": "text", "label": "emotion"})
    assert "guess" in "".join(mixed.notices)
    assert beside_others.reading is not None
    assert beside_others.reading.columns == mixed.reading.columns
    assert sorted_by_it.reading is not None
    assert sorted_by_it.reading.shape == "document"
    assert "guess" in "".join(sorted_by_it.notices)
    assert corpus.notices == []
    assert answered.reading is not None
    assert answered.reading.columns == {"text": "text", "label": "is_spam"}


@pytest.mark.parametrize(
    "values",
    [(2020, 2021, 2022), (0, 1), (True, False), ("True", "False"), ("2024-01", "2024-02")],
    ids=["years", "numbers", "truth", "words of truth", "dates"],
)
def test_what_is_noted_beside_documents_in_numbers_dates_or_as_true_makes_no_labels_of_it(
    values: tuple[object, ...], tmp_path: Path
) -> None:
    rows = [{"text": f"Sentence {n} of a letter.", "noted": values[n % len(values)]} for n in range(12)]

    detected = found(tmp_path, jsonl(rows), "a.jsonl")

    assert detected.reading is not None
    assert (detected.reading.shape, detected.reading.columns) == ("document", {"text": "text"})
    assert "guess" in "".join(detected.notices)


@pytest.mark.parametrize(
    ("delimiter", "name"), [(",", "a.csv"), (";", "a.csv"), ("\t", "a.tsv"), ("|", "a.txt")]
)
def test_the_delimiter_is_found_although_texts_hold_the_others(
    tmp_path: Path, delimiter: str, name: str
) -> None:
    quoted = f'"yes{delimiter} no; or, maybe"'

    detected = found(tmp_path, f"text{delimiter}label\n" + f"{quoted}{delimiter}good\n" * 4, name)

    assert detected.reading is not None
    assert detected.reading.delimiter == delimiter
    assert detected.rows[0] == {"text": " ".join(quoted.strip('"').split()), "label": "good"}


def test_a_table_without_names_has_its_columns_numbered(tmp_path: Path) -> None:
    detected = found(tmp_path, "I like it very much,1\nIt broke on the first day,0\nNice,1\n", "a.csv")

    assert detected.reading is not None
    assert not detected.reading.header
    assert detected.rows[0]["column 1"] == "I like it very much"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_unicode_is_known_with_and_without_its_mark(tmp_path: Path, encoding: str) -> None:
    detected = found(tmp_path, "text,label\nGrüße aus Köln,höflich\n".encode(encoding), "a.csv")

    assert detected.reading is not None
    assert detected.rows == [{"text": "Grüße aus Köln", "label": "höflich"}]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b" \n\n ", "blanks"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "picture"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "Office"),
        (bytes(range(256)) * 10, "neither"),
        (b"PK\x03\x04 and no more", "damaged"),
        (b"%PDF-1.7 and no more", "damaged"),
        (pdf(["secret"], password="p"), "password"),
        (pdf([""]), "no text"),
        (archive({}), "empty"),
        (archive({"inner.zip": archive({"a.txt": b"Hello"})}), "archive again"),
        (b"{}\n[]\n", "field"),
        (b"[1, 2, 3]", "named fields"),
        (b'{"data": [{"prompt": "a", "completion": "b"}], "more": [{"prompt": "c"}]}', "list 'data'"),
        (b'{"q1": {"prompt": "a"}, "q2": {"prompt": "b"}}', "'q1' and so on"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(tmp_path: Path, content: bytes, word: str) -> None:
    detected = found(tmp_path, content, "a.jsonl")

    assert detected.reading is None
    assert word in detected.reason


def test_what_two_people_say_beside_a_rating_is_a_prompt_with_its_completion(tmp_path: Path) -> None:
    rows = [f"{n},Where is order {n}?,It is on its way and comes on day {n}.,{n % 5}\n" for n in range(40)]
    detected = found(tmp_path, "ticket,client,agent,stars given\n" + "".join(rows), "a.csv")
    assert detected.reading is not None
    assert detected.reading.shape == "prompt_completion"
    assert detected.reading.columns == {"prompt": "client", "completion": "agent"}


@pytest.mark.parametrize("text", ["MZ, Mainz: what is open when\n", "GIF8 is how some pictures begin.\n"])
def test_a_text_that_begins_as_programs_and_pictures_do_is_a_text(tmp_path: Path, text: str) -> None:
    assert found(tmp_path, text * 3, "a.txt").reading is not None
    refused = found(tmp_path, text.encode()[:4] + bytes(60), "a.txt")
    assert (refused.reading, refused.code) == (None, "unreadable_file")


# --- Archives ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "content", "shape"),
    [
        ("a.jsonl", jsonl(CHAT * 500), "chat"),
        ("a.json", b"[" + b",".join(jsonl(CHAT * 500).splitlines()) + b"]", "chat"),
        ("a.csv", CSV + "It is fine,good\n" * 1000, "labelled"),
        ("a.txt", "Once upon a time.\n\n" * 1000, "document"),
    ],
)
def test_of_a_large_file_in_an_archive_only_the_beginning_is_unpacked_to_look_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes | str, shape: str
) -> None:
    monkeypatch.setattr(looking, "_MEMBER_SIZE", 10_000)
    packed = archive({name: content.encode() if isinstance(content, str) else content})

    detected = looking.look_into(write(tmp_path, packed), "all.zip", scratch=tmp_path)

    assert (tmp_path / "member").stat().st_size == 10_000
    assert detected.reading is not None
    assert detected.reading.shape == shape


@pytest.mark.parametrize("other", ["picture.png", "note.txt", "part.unknown"])
def test_examples_in_an_archive_are_found_whatever_lies_before_them(tmp_path: Path, other: str) -> None:
    content = b"\x89PNG\r\n\x1a\n" if other.endswith("png") else b"Just a note.\n" * 10
    before = {f"a/{number} {other}": content for number in range(25)}
    packed = archive(
        {**before, "info.json": b'{"about": "our shop", "by": "us"}', "train.jsonl": jsonl(CHAT * 9)}
    )

    detected = found(tmp_path, packed, "all.zip")

    assert detected.reading is not None
    assert detected.reading.shape == "chat"
    assert "train.jsonl" in detected.reason


def test_a_file_too_large_to_be_looked_into_is_named_and_keeps_nobody_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "_MEMBER_SIZE", 2000)
    noise = random.Random(1)
    table = parquet([{"text": noise.randbytes(40).hex(), "label": "a"} for _ in range(200)])
    alone, accompanied = (
        archive({"big.parquet": table}),
        archive({"big.parquet": table, "a.csv": CSV.encode()}),
    )

    refused = looking.look_into(write(tmp_path, alone), "all.zip", scratch=tmp_path)
    others = looking.look_into(write(tmp_path, accompanied), "all.zip", scratch=tmp_path)

    assert refused.reading is None
    assert "big.parquet is too large" in refused.reason
    assert others.reading is not None
    assert others.reading.shape == "labelled"
    assert "a.csv" in others.reason


def test_whoever_looks_into_an_archive_for_too_long_is_ended_and_leaves_nothing_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, archive({"a.txt": b"Once upon a time.\n\n" * 3_000_000}))
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(unpacked))
    monkeypatch.setenv("TMPDIR", str(unpacked))

    class UntilItIsLate(selectors.DefaultSelector):  # type: ignore[valid-type, misc]
        def select(self, timeout: float | None = None) -> list[Any]:
            deadline = time.monotonic() + 30
            while not any(unpacked.rglob("member")) and time.monotonic() < deadline:
                pass
            return []

    monkeypatch.setattr(selectors, "DefaultSelector", UntilItIsLate)

    assert "too large or too broken" in detect(path, "a.zip").reason
    assert list(unpacked.iterdir()) == []


def test_of_any_number_of_fields_with_names_of_any_length_those_are_kept_that_can_be_chosen(
    tmp_path: Path,
) -> None:
    """What was found becomes a row of the database, and is shown on a page."""
    many = {"text": "I like it", "label": "good", "k" * 100_000: "x", **{f"c{n}": "x" for n in range(3000)}}
    some = {"text": "I hate it", "label": "bad", **{f"d{n}": "x" for n in range(3000)}}
    detected = found(tmp_path, jsonl([many, some]), "a.jsonl")
    assert detected.reading is not None
    assert detected.reading.columns == {"text": "text", "label": "label"}
    assert detected.columns[:3] == ["text", "label", "c0"]
    assert len(detected.columns) == 1000
