"""How a file's bytes are laid out: by what they are, and only then by what the name says. Knows nothing of rows."""

from __future__ import annotations

import codecs
import csv
import io
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from training.datasets.code_pages import declared
from training.datasets.dialect import SEPARATOR, are_enclosed, cells, without_separator_line
from training.datasets.encodings import SAMPLE, guess, is_unicode
from training.datasets.shapes import FIELDS
from training.datasets.sources import Layout

NAMES: dict[Layout, str] = {
    "jsonl": "JSON Lines",
    "json": "JSON",
    "csv": "a table in text (CSV)",
    "xlsx": "an Excel workbook",
    "parquet": "Parquet",
    "text": "plain text",
    "markdown": "Markdown",
    "html": "a web page",
    "pdf": "a PDF",
    "docx": "a Word document",
    "zip": "a ZIP archive",
}
_EXTENSIONS: dict[str, Layout] = {
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "json",
    "csv": "csv",
    "tsv": "csv",
    "xlsx": "xlsx",
    "xlsm": "xlsx",
    "parquet": "parquet",
    "txt": "text",
    "text": "text",
    "md": "markdown",
    "markdown": "markdown",
    "html": "html",
    "htm": "html",
    "xhtml": "html",
    "pdf": "pdf",
    "docx": "docx",
    "docm": "docx",
    "zip": "zip",
}
_FOREIGN = {  # what people upload, and we do not read
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an old or locked Office file: save it as .docx or .xlsx, unlocked",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive: use ZIP",
    b"Rar!": "a RAR archive: use ZIP",
    b"\xfd7zXZ": "compressed by xz: unpack it first",
    b"BZh": "compressed by bzip2: unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: unpack it first",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"GIF8": "a picture",
    b"SQLite format 3": "a database: export its tables as CSV",
    b"{\\rtf": "a Rich Text file: save it as .docx",
    b"\x7fELF": "a program",
    b"MZ": "a program",
}
_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a]")
_DELIMITERS = (",", ";", "\t", "|")
_TITLES = 5  # rows above the columns' names at most
_TAG = re.compile(r"<(html|head|body|div|p|span|table|h[1-6]|article)\b[^>]*>", re.IGNORECASE)
USUAL = {name for fields in FIELDS.values() for field in fields.values() for name in field.names}


class Seen(NamedTuple):
    layout: Layout | None
    encoding: str
    delimiter: str
    reason: str  # a sentence where it is nothing we can read, or the name says something else; else ""
    code: str = ""  # of codes.py, where it is nothing we can read


def see(path: Path, name: str) -> Seen:
    with path.open("rb") as file:
        sample = file.read(SAMPLE)
        whole = len(sample) < SAMPLE
    claimed = layout_of_name(name)
    if not sample:
        return Seen(None, "", "", "The file is empty.", "empty_file")
    layout, why = _by_magic(path, sample, claimed)
    if why:
        return Seen(None, "", "", f"The file is {why}.", "unreadable_file")
    if layout is not None:
        return Seen(layout, "utf-8", ",", _lie(claimed, layout, name))
    encoding = guess(sample)
    if encoding is None:
        neither = "The file is neither text nor a format that is read here."
        lie = f"Its name ends in .{name.rpartition('.')[2]}, and it is not that. {neither}"
        return Seen(None, "", "", lie if claimed else neither, "unreadable_file")
    text = sample.decode(encoding, "replace").lstrip("\ufeff")
    if not whole:
        text = text[: text.rfind("\n") + 1] or text
    if not text.strip():
        return Seen(None, "", "", "The file has nothing but blanks in it.", "empty_file")
    layout, delimiter = _by_text(text, claimed, name)
    if layout == "html" and not is_unicode(encoding):
        encoding = declared(sample) or encoding
    return Seen(layout, encoding, delimiter, _lie(claimed, layout, name))


def layout_of_name(name: str) -> Layout | None:
    return _EXTENSIONS.get(name.rpartition(".")[2].lower()) if "." in name else None


def _lie(claimed: Layout | None, layout: Layout, name: str) -> str:
    if claimed in (None, layout):
        return ""
    return f"The name ends in .{name.rpartition('.')[2]}, but the file is {NAMES[layout]}."


def _by_magic(path: Path, sample: bytes, claimed: Layout | None) -> tuple[Layout | None, str]:
    for magic, what in _FOREIGN.items():
        # A text may begin with a few such letters, too.
        is_word = len(magic) <= 4 and magic.isascii()
        if sample.startswith(magic) and not (is_word and _NO_TEXT.search(sample[:256]) is None):
            return None, what
    if sample.startswith(b"PAR1"):
        return "parquet", ""
    if sample.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return _by_members(path)
    # A printer's commands may stand before it; elsewhere it is what a text tells of.
    is_pdf = sample.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"%PDF-")
    if is_pdf or (claimed == "pdf" and b"%PDF-" in sample[:1024]):
        return "pdf", ""
    return None, ""


def _by_members(path: Path) -> tuple[Layout | None, str]:
    try:
        with zipfile.ZipFile(path) as package:
            names = package.NameToInfo
            if "word/document.xml" in names:
                return "docx", ""
            if "xl/workbook.xml" in names:
                return "xlsx", ""
            if "xl/workbook.bin" in names or "mimetype" in names or "ppt/presentation.xml" in names:
                return None, "an Office file that is not read here: save it as .docx, .xlsx or .pdf"
            return ("zip", "") if names else (None, "an empty archive")
    except Exception:  # zipfile stumbles over broken archives in many ways
        return None, "a damaged ZIP archive, or an Office file that is one"


def _by_text(text: str, claimed: Layout | None, name: str) -> tuple[Layout, str]:
    start = text.lstrip()[:1]
    if start in "{[":
        return _json_layout(text, claimed), ","
    head = re.sub(r"^\s*(<\?xml[^>]*>|<!--.*?-->|\s)*", "", text[:20_000], flags=re.DOTALL)[:200].lower()
    if head.startswith(("<!doctype html", "<html")) or (claimed == "html" and _TAG.search(text[:100_000])):
        return "html", ","
    delimiter = table_delimiter(text, claimed == "csv", name.lower().endswith(".tsv"))
    if delimiter:
        return "csv", delimiter
    return ("markdown" if claimed == "markdown" else "text"), ","


def _json_layout(text: str, claimed: Layout | None) -> Layout:
    """One value a line, or not. A prose text may begin with a bracket, too."""
    lines = [line for line in text[: 2**20].split("\n", 50)[:50] if line.strip()]
    whole = [
        line for line in lines if line.lstrip()[0] in "{[" and line.rstrip().rstrip(",")[-1:] in ("}", "]")
    ]
    quoted = text.count('"', 0, 10_000) >= 2
    if not quoted and claimed not in ("json", "jsonl") and not re.match(r"\s*(\{\s*\}|\[\s*[\[{\]])", text):
        return "markdown" if claimed == "markdown" else "text"
    if text.lstrip().startswith("["):
        # [{...}] on one line is an array; lines of arrays are not something we know.
        return "json" if len(lines) == 1 or claimed != "jsonl" or len(whole) < len(lines) else "jsonl"
    if len(lines) == 1 and claimed == "json":
        return "json"  # where one value may follow another on the same line, too
    cut = len(lines) == 1 and claimed == "jsonl"  # one line, longer than what was looked at
    alone = [
        line for line in whole if not line.rstrip().endswith(",")
    ]  # those of a list have a comma behind them
    return "jsonl" if cut or len(alone) * 2 >= len(lines) else "json"


def table_delimiter(text: str, claimed: bool, tabs: bool) -> str:
    """What parts the fields of a table; "" where the text seems to be none."""
    if said := SEPARATOR.match(text):
        return said.group(1)
    best, best_score = "", 0.0
    for delimiter in ("\t",) if tabs else _DELIMITERS:
        rows = first_rows(text, delimiter)
        titles = titles_above(rows) if claimed else 0  # any text may have commas from some line on
        del rows[:titles]
        if len(rows) < 2 or len(rows[0]) < 2:
            continue
        width = len(rows[0])
        same = sum(len(row) == width for row in rows) / len(rows)
        header = looks_like_header(rows)
        known = sum(cell.strip().casefold() in USUAL for cell in rows[0])
        # Prose has commas, too: without a name that says table, the rows have to.
        enough = 0.5 if known >= 2 or (claimed and not titles) else 0.95 if header and len(rows) >= 3 else 2.0
        score = same + known + min(width, 50) / 1000
        if same >= enough and score > best_score:
            best, best_score = delimiter, score
    if not best and claimed:
        # All that was seen may be one row: the next is longer than what was looked at, or there is one column.
        first = text.lstrip()[:10_000].splitlines()[:1]
        usual = {
            each: sum(
                cell.strip().casefold() in USUAL for row in first_rows("".join(first), each) for cell in row
            )
            for each in _DELIMITERS
        }
        best = max(_DELIMITERS, key=lambda each: usual[each])
        best = best if usual[best] else ""
    return best


def first_rows(text: str, delimiter: str, count: int = 50) -> list[list[str]]:
    rows: list[list[str]] = []
    text = without_separator_line(text[: 2**20])
    reader = cells(io.StringIO(text, newline=""), delimiter, enclosed=are_enclosed(text, delimiter))
    try:
        for row in reader:
            if any(row):
                rows.append(row)
            if len(rows) == count:
                break
    except csv.Error:
        pass
    return rows


def titles_above(rows: Sequence[Sequence[object]]) -> int:
    """How many rows with a title, a date or the like stand above one with the columns' names."""
    texts = [[str(cell) for cell in cells if cell not in (None, "")] for cells in rows]
    above = next((number for number, cells in enumerate(texts[: _TITLES + 1]) if len(cells) > 1), 0)
    if any(cell.strip().casefold() in USUAL for cells in texts[:above] for cell in cells):
        return 0  # the one column that has a name
    table = texts[above:]
    wide = sum(len(cells) > 1 for cells in table)
    return above if above and wide * 2 > len(table) and looks_like_header(table) else 0


def looks_like_header(rows: list[list[str]]) -> bool:
    """Names are short, each another, and no numbers."""
    names = [cell.strip() for cell in rows[0]]
    if any(name.casefold() in USUAL for name in names):
        return True
    short = all(0 < len(name) <= 64 and not re.fullmatch(r"[-+\d.,:/ %]+", name) for name in names)
    repeated = any(cell in names for row in rows[1:] for cell in map(str.strip, row))
    ends = any(name.endswith((".", "!", "?")) for name in names)
    return short and len(set(names)) == len(names) and not repeated and not ends
