"""A file as it was uploaded, and how it is to be read. Knows nothing of how that is done, nor of Django."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from training.datasets.examples import Kind

# How the bytes are laid out.
Layout = Literal["jsonl", "json", "csv", "xlsx", "parquet", "text", "markdown", "html", "pdf", "docx", "zip"]
# Those whose bytes are characters of some encoding.
TEXTUAL: tuple[Layout, ...] = ("jsonl", "json", "csv", "text", "markdown", "html")
# What a row means.
Shape = Literal[
    "chat",  # OpenAI's: {"messages": [...]}
    "prompt_completion",
    "sharegpt",
    "alpaca",
    "preference",
    "labelled",
    "translation",
    "document",
]


class Reading(msgspec.Struct, omit_defaults=True):
    """How a file is to be read: what detection found, or what a person made of it."""

    layout: Layout
    shape: Shape
    encoding: str = "utf-8"
    delimiter: str = ","  # of a CSV
    within: str = ""  # of a JSON that is an object: the list in it that holds the examples
    sheet: str = ""  # of an XLSX; where empty, the first with anything in it
    header: bool = True  # of a table: whether its first row names the columns; else "column 1", ...
    # What each field is called in this file: {"text": "Kundenfrage", "label": "Thema"}; "" is "not there". Fields that
    # are not named here go by their usual names (shapes.FIELDS).
    columns: dict[str, str] = {}


class Source(msgspec.Struct):
    path: Path
    name: str  # as the person named it; never used as a path
    reading: Reading


class Detected(msgspec.Struct):
    """What a file seems to be. `reading` is None where it seems to be nothing we can read: `reason` says why to people,
    `code` to programs."""

    reading: Reading | None
    reason: str
    columns: list[str]  # of a table
    rows: list[dict[str, str]]  # the first, as they would be shown
    header: bool = True  # of a table: whether these columns are called as its first row says
    sheets: list[str] = []  # of a workbook: those with anything in them, first the one that was read
    notices: list[str] = []  # sentences a person should know before it is read so
    code: str = ""  # of codes.py


def kind_of(shape: Shape) -> Kind:
    """What examples a shape becomes."""
    if shape in ("prompt_completion", "sharegpt", "alpaca"):
        return "chat"
    return shape  # type: ignore[return-value]
