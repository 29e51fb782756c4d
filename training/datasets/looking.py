"""Looks into a file, in this process: its shape by the names of its fields, its columns, its first rows.

Knows nothing of processes, which keep a broken file from taking others down.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path

from training.datasets.codes import shown
from training.datasets.encodings import as_in, is_unicode, open_text
from training.datasets.layouts import (
    NAMES,
    USUAL,
    Seen,
    first_rows,
    layout_of_name,
    looks_like_header,
    see,
    titles_above,
)
from training.datasets.limits import MAX_COLUMNS, MAX_LINE
from training.datasets.problems import DataError
from training.datasets.readers import read_rows
from training.datasets.readers.archive import unpack_each
from training.datasets.readers.rows import NoValue, Row, Sheets, Skipped
from training.datasets.shapes import guess_shape, usual_columns
from training.datasets.sources import TEXTUAL, Detected, Layout, Reading, Shape

_LOOKED_AT = 50  # rows
_SHOWN = 8
_CELL = 300  # characters
_LONGEST_NAME = 300  # characters of a column's name
_MEMBERS = 20  # files of an archive that are looked into
_MEMBER_SIZE = 64 * 2**20  # bytes of each that are unpacked for it
# Read from their beginning on: to look at some rows, there need be no end.
_FROM_THE_START: tuple[Layout, ...] = ("jsonl", "json", "csv", "text", "markdown")
_DOCUMENTS: tuple[Layout, ...] = ("text", "markdown", "html", "pdf", "docx")
_BEGINNING = 2**16  # characters of a JSON file
# An object that begins with a list of objects, or with plain values and then that.
_LIST_WITHIN = re.compile(
    r'\ufeff?\s*+\{(?:\s*+"[^"\\]*+"\s*+:\s*+(?:"(?:[^"\\]|\\.)*+"|[-+.\w]++)\s*+,)*+'
    r'\s*+"([^"\\]{1,300})"\s*+:\s*+\[\s*+\{'
)
_GUESS = "This is a guess by what the fields hold: check which field is which."
_SHAPES: dict[Shape, str] = {
    "chat": "conversations (OpenAI's messages)",
    "prompt_completion": "prompts with completions",
    "sharegpt": "conversations (ShareGPT)",
    "alpaca": "instructions with answers (Alpaca)",
    "preference": "pairs of answers, one preferred",
    "labelled": "labelled texts",
    "translation": "texts with their translations",
    "document": "documents",
}


def look_into(
    path: Path,
    name: str,
    seen: Seen | None = None,
    *,
    asked: Reading | None = None,
    scratch: Path | None = None,
) -> Detected:
    """What it seems to be; or what is in it, read as `asked`. Of a fragile layout (readers.FRAGILE), only for a process
    that may be lost.

    `scratch`: a folder for what an archive holds. This process may be killed: whoever asks it makes and removes that.
    """
    seen = seen_as(asked) if asked is not None else seen or see(path, name)
    if seen.layout is None:
        return refused(seen, seen.code)
    try:
        if seen.layout == "zip":
            assert scratch is not None
            found = _archive(path, name, seen, scratch / "member")
            if asked is not None and found.reading is not None and found.reading.shape != asked.shape:
                found.reading.shape = asked.shape
                found.reading.columns = usual_columns(asked.shape, found.columns) or {}
            return found
        reading = Reading(seen.layout, "document", seen.encoding, seen.delimiter)
        if asked is None:
            reading.header = _has_header(path, seen)
        else:
            reading.shape, reading.sheet, reading.header = asked.shape, asked.sheet, asked.header
            reading.within = asked.within if asked.layout == "json" else ""
        rows, flaw, sheets = _first(path, reading)
        may_hold = (
            ("json",) if asked is not None else ("json", "jsonl")
        )  # on one line it looks like JSON Lines
        if (
            reading.layout in may_hold
            and not reading.within
            and (within := _list_within(path, reading, rows, flaw))
        ):
            reading.layout, reading.within = "json", within
            seen = seen._replace(layout="json")
            rows, flaw, sheets = _first(path, reading)
    except DataError as error:
        return refused(seen, error.code, error.message)
    except MemoryError:
        return refused(seen, "file_too_complex", "Reading it needs too much memory.")
    if not rows:
        found = refused(seen, *(flaw or ("empty_file", "There is no row in it.")))
        found.sheets = sheets
        return found
    found = Detected(
        reading, "", [], [_shown(row) for row in rows[:_SHOWN]], reading.header, sheets, _notices(seen)
    )
    if asked is None and seen.layout in TEXTUAL and not is_unicode(seen.encoding):
        found.notices.append(f"{legacy_encoding(seen.encoding)} “{as_in(path, seen.encoding)}”")
    if reading.within and (asked is None or not asked.within):
        found.notices.append(f"Its examples are those of the list “{shown(reading.within, 40)}”.")
    if len(sheets) > 1 and (asked is None or not asked.sheet):
        found.notices.append(other_sheets(*sheets))
    if seen.layout in _DOCUMENTS:
        found.reason = _reason(seen, "documents")
        return found
    found.columns = [*dict.fromkeys(str(name) for row in rows for name in row)][:MAX_COLUMNS]
    guessed = guess_shape([_with_values(row) for row in rows])
    if asked is not None and (guessed is None or guessed[0] != asked.shape):
        guessed = asked.shape, usual_columns(asked.shape, found.columns) or {}, True
    if guessed is None:
        nothing = refused(seen, "unreadable_file", _no_text(rows))
        found.reading, found.reason, found.code = None, nothing.reason, nothing.code
        return found
    reading.shape, reading.columns, sure = guessed
    found.reason = _reason(seen, _SHAPES[reading.shape])
    if not sure and (asked is None or not asked.columns):
        found.notices.append(_GUESS)
    return found


def seen_as(asked: Reading) -> Seen:
    return Seen(asked.layout, asked.encoding, asked.delimiter, "")


def _list_within(
    path: Path, reading: Reading, rows: list[dict[str, object]], flaw: tuple[str, str] | None
) -> str:
    """What the list is called that holds the examples, where all of the file is one object with it; else ""."""
    if not rows:
        if flaw is None or flaw[0] != "line_too_long":
            return ""
        with open_text(path, reading.encoding) as text:
            begins = _LIST_WITHIN.match(text.read(_BEGINNING))
        return begins[1] if begins and begins[1] not in USUAL else ""
    guessed = guess_shape(rows)
    lists = [
        name
        for name, value in rows[0].items()
        if isinstance(value, list) and value and all(isinstance(each, dict) for each in value)
    ]
    return lists[0] if len(rows) == len(lists) == 1 and not (guessed and guessed[2]) else ""


def _no_text(rows: list[dict[str, object]]) -> str:
    """What to do about a file that has its examples one level further in."""
    for name, value in rows[0].items() if len(rows) == 1 else ():
        if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            return f"Its examples are in the list {shown(name, 40)!r}: make a file of that list alone."
        if isinstance(value, dict) and value:
            return (
                f"Its examples are called {shown(name, 40)!r} and so on: write them as a list, without names."
            )
    return "No field in it holds text."


def refused(seen: Seen, code: str, why: str = "") -> Detected:
    return Detected(None, f"{seen.reason} {why}".strip(), [], [], code=code)


def legacy_encoding(encoding: str) -> str:
    return f"It is not in Unicode, and is read as {encoding}."


def other_sheets(chosen: str, *others: str) -> str:
    return f"Only the sheet {shown(chosen, 40)} is read, and not {shown(', '.join(others), 200)}."


def _notices(seen: Seen) -> list[str]:
    return [seen.reason] if seen.reason else []


def _reason(seen: Seen, what: str) -> str:
    layout = NAMES[seen.layout or "text"]
    encoding = f" in {seen.encoding}" if seen.layout in TEXTUAL else ""
    return f"{layout[0].upper()}{layout[1:]}{encoding} with {what}."


def _has_header(path: Path, seen: Seen) -> bool:
    if seen.layout != "csv":
        return True
    with path.open("rb") as file:
        rows = first_rows(file.read(2**20).decode(seen.encoding, "replace").lstrip("\ufeff"), seen.delimiter)
    return not rows or titles_above(rows) > 0 or looks_like_header(rows)


def _first(path: Path, reading: Reading) -> tuple[list[dict[str, object]], tuple[str, str] | None, list[str]]:
    """The first rows that have fields; where there are none, what is wrong with the first: a code and a sentence. And a
    workbook's sheets: where none is asked for, the likely one is from now on."""
    rows: list[dict[str, object]] = []
    flaw: tuple[str, str] | None = None
    sheets: list[str] = []
    try:
        for row in itertools.islice(read_rows(path, reading), _LOOKED_AT):
            if isinstance(row, Sheets):
                sheets = row.names
                reading.sheet = reading.sheet or row.likely
                if reading.sheet != sheets[0]:
                    break
            elif isinstance(row, Skipped):  # its end may be gigabytes away
                long = f"A row is longer than {MAX_LINE // 2**20} MB: shorten it, or split it."
                flaw = flaw or ("line_too_long", long)
                break
            elif isinstance(row, Row):
                value = {"text": row.value} if isinstance(row.value, str) else row.value
                if isinstance(value, dict):
                    rows.append(_named(value))
                else:
                    flaw = flaw or ("data_type", "What is in it are no examples, which have named fields.")
            else:
                flaw = flaw or (row.code, row.reason)
    except DataError as error:
        if not rows:
            raise
        flaw = error.code, error.message
    if sheets and sheets[0] != reading.sheet:
        return _first(path, reading)
    return rows, flaw, sheets


def _with_values(row: dict[str, object]) -> dict[str, object]:
    return {name: None if isinstance(cell, NoValue) else cell for name, cell in row.items()}


def _named(fields: Mapping[str, object]) -> dict[str, object]:
    """Those that a person could choose among: what was found is a row of the database, and a page."""
    named = (
        (name, cell)
        for name, cell in fields.items()
        if len(str(name)) <= _LONGEST_NAME and "\0" not in str(name)
    )
    return dict(itertools.islice(named, MAX_COLUMNS))


def _shown(row: Mapping[str, object]) -> dict[str, str]:
    return {
        shown(str(name), 80): shown("" if cell is None else cell, _CELL)
        for name, cell in list(row.items())[:50]
    }


def _promise(name: str, size: int) -> tuple[int, int]:
    """Examples are rather in the largest table or JSON file than in a note or a picture beside it."""
    claimed = layout_of_name(name)
    return 2 if claimed is None else int(claimed in _DOCUMENTS), -size


def _archive(path: Path, name: str, seen: Seen, member_path: Path) -> Detected:
    """As the first of its files, by what they promise, whose fields have names; else as documents."""
    documents: Detected | None = None
    code, why = "unreadable_file", "Nothing in the archive can be read."
    members = unpack_each(path, name, member_path, most=_MEMBER_SIZE, order=_promise)
    for member in itertools.islice(members, _MEMBERS):
        if member.refused is not None:
            code, why = member.refused.code, member.refused.message
            continue
        inside = see(member_path, member.name)
        if not member.is_whole and inside.layout not in _FROM_THE_START:
            code, why = (
                "file_too_long",
                f"{shown(member.name, 80)} is too large to be looked into within an archive, which is done up to"
                f" {_MEMBER_SIZE // 2**20} MB: upload it unpacked.",
            )
            continue
        if inside.layout == "zip":
            why = "What is in it is an archive again: unpack it and upload what is in that."
        if inside.layout in (None, "zip"):
            continue
        found = look_into(member_path, member.name, inside)
        if found.reading is None:
            continue
        found.reason = f"A ZIP archive; {shown(member.name, 80)}: {found.reason}"
        found.notices = _notices(seen) + [f"{shown(member.name, 80)}: {notice}" for notice in found.notices]
        found.reading = Reading("zip", found.reading.shape, columns=found.reading.columns)
        if found.reading.shape != "document":
            return found
        documents = documents or found
    return documents or refused(seen, code, why)
