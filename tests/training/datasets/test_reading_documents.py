"""Texts, web pages, PDFs, Word documents and archives of them: what is read, and what is never run or followed."""

from __future__ import annotations

import io
import time
import zipfile
from pathlib import Path

import docx
import pytest
from pypdf import PdfReader, PdfWriter
from pypdf.actions import JavaScript
from pypdf.generic import DictionaryObject, NameObject, StreamObject

from tests.training.datasets.files import Read, archive, chat, jsonl, pdf, read, source, word
from training.datasets import part
from training.datasets.detect import detect
from training.datasets.examples import DocumentExample
from training.datasets.readers.html import page_text
from training.datasets.sources import Layout, Reading


def read_one(folder: Path, content: bytes | str, layout: Layout, encoding: str = "utf-8") -> Read:
    return read(folder, source(folder, content, f"a.{layout}", Reading(layout, "document", encoding)))


def texts(done: Read) -> list[str]:
    assert all(isinstance(example, DocumentExample) for example in done.examples)
    return [example.text for example in done.examples if isinstance(example, DocumentExample)]


def test_a_text_is_one_document_with_its_paragraphs(tmp_path: Path) -> None:
    done = read_one(tmp_path, "One\nmore\n\n\n  \nTwo\r\n", "text")

    assert texts(done) == ["One\nmore\n\nTwo"]


def test_a_long_text_is_cut_between_paragraphs_and_each_piece_knows_its_line(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {number}: " + "word " * 300 for number in range(40)]

    done = read_one(tmp_path, "\n\n".join(paragraphs), "text")

    assert len(done.records) > 3
    assert all(len(text) <= 16_000 and text.startswith("Paragraph ") for text in texts(done))
    assert "\n\n".join(texts(done)) == "\n\n".join(paragraphs)
    starts = [1 + 2 * int(text.split()[1].rstrip(":")) for text in texts(done)]
    assert [record.line for record in done.records] == starts


def test_a_text_without_any_break_is_cut_after_words_and_nothing_is_lost(tmp_path: Path) -> None:
    done = read_one(tmp_path, "word " * 20_000, "text")

    assert all(len(text) <= 16_000 for text in texts(done))
    assert " ".join(texts(done)).split() == ["word"] * 20_000


def test_bytes_that_are_no_characters_lose_only_the_document_they_are_in(tmp_path: Path) -> None:
    content = (
        ("good " * 3000 + "\n\n").encode() + b"bad \xff here " * 1200 + ("\n\n" + "fine " * 3000).encode()
    )

    done = read_one(tmp_path, content, "text")

    assert done.codes == ["invalid_encoding"]
    assert [text.split()[0] for text in texts(done)] == ["good", "fine"]


def test_markdown_is_kept_as_it_is_and_its_heading_is_the_title(tmp_path: Path) -> None:
    done = read_one(tmp_path, "# The *King*\n\n- one\n- two\n", "markdown")

    assert done.examples == [DocumentExample("# The *King*\n\n- one\n- two", "The *King*")]


@pytest.mark.parametrize("mark", ["---", "+++"])
def test_what_site_generators_read_at_the_top_of_a_page_gives_its_title_and_is_no_text(
    tmp_path: Path, mark: str
) -> None:
    matter = f"{mark}\ntitle: 'The King'\ntags:\n  - tales\n\n# of old\ndraft = false\n{mark}\n"

    done = read_one(tmp_path, matter + "\nOnce upon a time.\n\n---\n\nEnd.\n", "markdown")

    assert done.examples == [DocumentExample("Once upon a time.\n\n---\n\nEnd.", "The King")]
    assert done.records[0].line == 10


@pytest.mark.parametrize("text", ["---\n\nOnce upon a time.\n\n---\n\nEnd.", "---\ntitle: x", "---"])
def test_a_line_across_the_top_of_a_page_takes_nothing_away(tmp_path: Path, text: str) -> None:
    assert texts(read_one(tmp_path, text, "markdown")) == [text]


def test_of_a_web_page_the_text_is_read_and_scripts_and_styles_are_not(tmp_path: Path) -> None:
    page = """<!doctype html><html><head><title>Prices &amp; more</title><style>p { color: red }</style>
    <script>document.write("<p>evil</p>")</script></head>
    <body><!-- hidden <p>comment</p> --><h1>Prices</h1><p>One   <b>euro</b>&nbsp;each,
    <a href="https://example.org/?a>b" title='>'>here</a>.<ul><li>a<li>b</ul><pre>x
  y</pre><table><tr><td>1</td><td>2</td></tr></table><p>1 < 2</body></html>"""

    done = read_one(tmp_path, page, "html")

    expected = "Prices\n\nOne euro each, here.\n\na\nb\n\nx\n  y\n\n1 2\n\n1 < 2"
    assert done.examples == [DocumentExample(expected, "Prices & more")]


@pytest.mark.parametrize(
    "evil", ["<div>", "<b><p>", "<a b='", "<!--", "<", "<script>", "<p a=\"'", "&", "</", "<x ", "<?"]
)
def test_a_web_page_made_to_be_slow_is_not(evil: str) -> None:
    started = time.process_time()

    page_text(evil * 100_000)

    assert time.process_time() - started < 5


def test_a_pdf_is_read_page_by_page(tmp_path: Path) -> None:
    done = read(tmp_path, source(tmp_path, pdf(["Hello there", "Second page"], title="Greetings"), "a.pdf"))

    assert done.examples == [DocumentExample("Hello there\n\nSecond page", "Greetings")]
    assert done.records[0].line == 1


def test_pages_of_a_pdf_that_are_pictures_are_told_and_blank_ones_are_not(tmp_path: Path) -> None:
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf(["Dear all", "", "", "", ""]))))
    picture = StreamObject()
    picture[NameObject("/Subtype")] = NameObject("/Image")
    pictures = DictionaryObject({NameObject("/Im0"): writer._add_object(picture)})
    for page in (1, 2, 4):
        held = DictionaryObject({NameObject("/XObject"): pictures})
        writer.pages[page][NameObject("/Resources")] = held
    file = io.BytesIO()
    writer.write(file)

    done = read(tmp_path, source(tmp_path, file.getvalue(), "a.pdf"))

    assert texts(done) == ["Dear all"]
    assert [(each.code, each.reason) for each in done.problems] == [
        ("pages_without_text", "Pages with pictures and no text: 2-3, 5.")
    ]


def test_scripts_macros_and_attachments_of_a_document_are_neither_run_nor_read(tmp_path: Path) -> None:
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf(["Hello there"]))))
    writer.add_open_action(JavaScript("app.launchURL('http://example.org/', true)"))
    writer.add_attachment("run.exe", b"MZ attached")
    file = io.BytesIO()
    writer.write(file)
    with zipfile.ZipFile(io.BytesIO(word(["Dear all"]))) as package:
        members = {name: package.read(name) for name in package.namelist()}
    with_macros = archive({**members, "word/vbaProject.bin": b'Sub AutoOpen(): Shell "calc.exe": End Sub'})

    done = read(tmp_path, source(tmp_path, file.getvalue(), "a.pdf"), source(tmp_path, with_macros, "a.docm"))

    assert (texts(done), done.problems) == (["Hello there", "Dear all"], [])


@pytest.mark.parametrize(
    ("content", "layout", "code"),
    [
        (pdf(["secret"], password="p"), "pdf", "encrypted_file"),
        (pdf([""]), "pdf", "no_text"),
        (pdf(["Hello"])[:400], "pdf", "broken_file"),
        (word([]), "docx", "no_text"),
        (word(["Hello"])[:-40], "docx", "broken_file"),
        (archive({"word/document.xml": b"<w:p"}), "docx", "broken_file"),
        (archive({"word/document.xml": bytes(100_000_000)}), "docx", "expands_too_much"),
        (b"", "text", "empty_file"),
        (b"\n\n \n", "text", "empty_file"),
        (b"<html><script>x</script></html>", "html", "empty_file"),
    ],
    ids=[
        "locked",
        "scan",
        "cut pdf",
        "empty docx",
        "cut docx",
        "bad xml",
        "bomb",
        "empty",
        "blank",
        "only script",
    ],
)
def test_a_document_that_cannot_be_read_is_a_problem_of_the_file(
    tmp_path: Path, content: bytes, layout: Layout, code: str
) -> None:
    done = read_one(tmp_path, content, layout)

    assert done.codes == [code]
    assert (done.problems[0].file, done.problems[0].line) == (f"a.{layout}", 0)
    assert done.examples == []


def test_of_a_word_document_the_paragraphs_are_read(tmp_path: Path) -> None:
    done = read(
        tmp_path, source(tmp_path, word(["Dear Ms Müller,", "it works.", ""], title="Letter"), "a.docx")
    )

    assert done.examples == [DocumentExample("Dear Ms Müller,\n\nit works.", "Letter")]


def with_document(xml: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(word(["x"]))) as package:
        members = {name: package.read(name) for name in package.namelist()}
    space = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    return archive({**members, "word/document.xml": xml.replace("SPACE", space).encode()})


def test_fields_deleted_text_and_links_of_a_word_document_are_not_read(tmp_path: Path) -> None:
    body = (
        "<w:p><w:r><w:instrText>DDEAUTO c:\\\\windows\\\\cmd.exe</w:instrText></w:r><w:del><w:r><w:delText>gone"
        "</w:delText></w:r></w:del><w:r><w:t>kept</w:t><w:tab/><w:t>too</w:t></w:r></w:p>"
    )

    done = read_one(
        tmp_path, with_document(f"<w:document SPACE><w:body>{body}</w:body></w:document>"), "docx"
    )

    assert texts(done) == ["kept\ttoo"]


def test_what_was_moved_is_read_where_it_is_now_and_what_is_hidden_not_at_all(tmp_path: Path) -> None:
    hidden = "<w:r><w:rPr><w:vanish/></w:rPr><w:t>draft </w:t><w:br/></w:r>"
    shown = '<w:r><w:rPr><w:vanish w:val="0"/></w:rPr><w:t>shown </w:t></w:r>'
    before = "<w:rPr><w:b/><w:rPrChange><w:rPr><w:vanish/></w:rPr></w:rPrChange></w:rPr>"
    body = f"""
        <w:p><w:moveFrom><w:r><w:t>Moved.</w:t></w:r></w:moveFrom><w:r><w:t>First.</w:t></w:r></w:p>
        <w:p><w:pPr><w:tabs><w:tab w:val="left"/></w:tabs></w:pPr>{hidden}{shown}
        <w:r>{before}<w:t>changed</w:t></w:r></w:p>
        <w:p><w:moveTo><w:r><w:t>Moved.</w:t></w:r></w:moveTo></w:p>"""

    done = read_one(
        tmp_path, with_document(f"<w:document SPACE><w:body>{body}</w:body></w:document>"), "docx"
    )

    assert texts(done) == ["First.\n\nshown changed\n\nMoved."]


def test_a_table_in_a_word_document_is_read_row_by_row(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_paragraph("Prices")
    table = document.add_table(rows=0, cols=3)
    for row in (["Item", "Price", "Note"], ["Tea", "2 €", ""], ["Coffee", "3 €", "black\nor white"]):
        for cell, text in zip(table.add_row().cells, row, strict=True):
            cell.text = text.split("\n")[0]
            for paragraph in text.split("\n")[1:]:
                cell.add_paragraph(paragraph)
    document.add_paragraph("All with tax.")
    file = io.BytesIO()
    document.save(file)

    done = read_one(tmp_path, file.getvalue(), "docx")

    assert texts(done) == [
        "Prices\n\nItem\tPrice\tNote\nTea\t2 €\nCoffee\t3 €\tblack or white\n\nAll with tax."
    ]


@pytest.mark.parametrize(
    "entity",
    ['<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">', '<!ENTITY b SYSTEM "file:///etc/passwd">'],
)
def test_entities_in_a_word_document_are_refused(tmp_path: Path, entity: str) -> None:
    xml = f"<!DOCTYPE x [{entity}]><w:document SPACE><w:p><w:r><w:t>&b;</w:t></w:r></w:p></w:document>"

    done = read_one(tmp_path, with_document(xml), "docx")

    assert done.codes == ["broken_file"]
    assert "root:" not in repr(done)


# --- Archives ----------------------------------------------------------------------------------------------
def test_an_archive_gives_what_its_files_give(tmp_path: Path) -> None:
    members = {"a/one.txt": b"First", "two.pdf": pdf(["Second"]), "three.docx": word(["Third"]), "a/": b""}

    done = read(tmp_path, source(tmp_path, archive(members), "all.zip"))

    assert texts(done) == ["First", "Second", "Third"]
    assert [record.path for record in done.records] == [
        "all.zip/a/one.txt",
        "all.zip/two.pdf",
        "all.zip/three.docx",
    ]


def test_names_that_macos_writes_in_an_archive_are_shown_as_they_are(tmp_path: Path) -> None:
    content = bytearray(archive({"Rückgabe und Umtausch.txt": b"Send it back."}))
    for flags in (6, content.index(b"PK\x01\x02") + 8):
        assert content[flags : flags + 2] == b"\x00\x08"  # which says that names are in UTF-8
        content[flags + 1] = 0

    done = read(tmp_path, source(tmp_path, bytes(content), "all.zip"))

    assert done.records[0].path == "all.zip/Rückgabe und Umtausch.txt"


def test_an_archive_tells_how_much_of_it_is_behind_also_where_nothing_in_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part, "_BEAT", -1.0)
    content = archive({f"{n}.{end}": b"\x89PNG" + bytes(99) if end == "png" else b"Hello" * 99
                       for n, end in enumerate(["png", "txt"] * 20)}, zipfile.ZIP_STORED)  # fmt: skip
    found = source(tmp_path, content, "all.zip")
    (tmp_path / "part").mkdir()
    said: list[int] = []

    part.read_part(part.Part(0, str(found.path), "all.zip", found.reading), tmp_path / "part", said.append)

    assert said == sorted(said)
    assert len(set(said)) == 40
    assert said[-1] < len(content)


def test_problems_in_an_archive_name_the_file_in_it(tmp_path: Path) -> None:
    content = archive({"data.jsonl": jsonl([chat("a", "b"), {}])})

    done = read(tmp_path, source(tmp_path, content, "all.zip"))

    assert [(problem.file, problem.line) for problem in done.problems] == [("all.zip/data.jsonl", 2)]


def test_what_does_not_belong_in_an_archive_is_left_out_and_named(tmp_path: Path) -> None:
    members = {
        "data.jsonl": jsonl([chat("a", "b")]),
        "photo.png": b"\x89PNG\r\n\x1a\n",
        "README.txt": b"Read me first.",
        "inner.zip": archive({"x.jsonl": jsonl([chat("c", "d")])}),
        "__MACOSX/._data.jsonl": b"\0\0",
    }

    done = read(tmp_path, source(tmp_path, archive(members), "all.zip"))

    assert len(done.examples) == 1
    assert [(problem.code, problem.file) for problem in done.problems] == [
        ("unreadable_member", "all.zip/photo.png"),
        ("mixed_kinds", "all.zip/README.txt"),
        ("nested_archive", "all.zip/inner.zip"),
    ]


@pytest.mark.parametrize(
    "name", ["../../climbed.txt", "/climbed.txt", "C:\\climbed.txt", "a/../../climbed.txt"]
)
def test_names_that_climb_are_only_names(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in" / "ner"
    folder.mkdir(parents=True)

    done = read(folder, source(folder, archive({name: b"text"}), "all.zip"))

    assert texts(done) == ["text"]
    assert not [path for path in tmp_path.rglob("*") if "climbed" in path.name]
    assert not Path("/climbed.txt").exists()


@pytest.mark.parametrize("limit", ["MAX_UNPACKED", "MAX_MEMBERS"])
def test_an_archive_of_too_much_is_stopped(tmp_path: Path, limit: str) -> None:
    many = {f"{n}.txt": b"" for n in range(10_001)}
    bomb = {"a.txt": b"0" * 150_000_000}
    content = archive(many if limit == "MAX_MEMBERS" else bomb)

    done = read(tmp_path, source(tmp_path, content, "all.zip", Reading("zip", "document")))

    assert done.codes == ["too_many_files" if limit == "MAX_MEMBERS" else "expands_too_much"]
    assert done.examples == []


def test_an_encrypted_member_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    content = bytearray(archive({"locked.txt": b"secret", "open.txt": b"open"}))
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag of the first entry of the directory

    done = read(tmp_path, source(tmp_path, bytes(content), "all.zip"))

    assert [(problem.code, problem.file) for problem in done.problems] == [
        ("encrypted_file", "all.zip/locked.txt")
    ]
    assert texts(done) == ["open"]


def test_files_of_another_kind_than_the_first_are_left_out_and_named(tmp_path: Path) -> None:
    done = read(
        tmp_path,
        source(tmp_path, jsonl([chat("a", "b")]), "a.jsonl"),
        source(tmp_path, "Just text.", "b.txt"),
        source(tmp_path, '{"prompt": "c", "completion": "d"}', "c.jsonl"),
    )

    assert done.summary.kind == "chat"
    assert [(problem.code, problem.file) for problem in done.problems] == [("mixed_kinds", "b.txt")]
    assert [record.file for record in done.records] == [0, 2]


def test_an_archive_is_detected_without_reading_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(archive({f"{n}.txt": b"Some text" for n in range(500)}))

    assert "0.txt" in detect(path, "a.zip").reason
