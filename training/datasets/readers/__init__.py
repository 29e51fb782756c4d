"""One module for each layout a file may have. This one chooses, and makes every failure a typed one.

Knows nothing of what rows mean.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from training.datasets.problems import DataError
from training.datasets.readers.rows import Rows
from training.datasets.sources import Layout, Reading

# Read by libraries that may crash, or spin, or fill memory on a broken file: only ever in a process of their own.
FRAGILE: frozenset[Layout] = frozenset(("xlsx", "parquet", "pdf", "docx", "zip"))


def read_rows(path: Path, reading: Reading, start: int = 0, end: int | None = None, first: int = 1) -> Rows:
    """The rows of a file that is no archive; of JSON Lines, those that begin in [start, end).

    Raises DataError, also in the midst; MemoryError.
    """
    try:
        if reading.layout == "jsonl":
            yield from _reader("jsonl", "read_jsonl")(path, reading.encoding, start, end, first)
        elif reading.layout == "csv":
            yield from _reader("table", "read_csv")(path, reading.encoding, reading.delimiter, reading.header)
        elif reading.layout == "xlsx":
            yield from _reader("xlsx", "read_xlsx")(path, reading.sheet, reading.header)
        elif reading.layout == "json":
            yield from _reader("json", "read_json")(path, reading.encoding, reading.within)
        elif reading.layout == "html":
            yield from _reader("html", "read_html")(path, reading.encoding)
        elif reading.layout == "markdown":
            yield from _reader("text", "read_markdown")(path, reading.encoding)
        elif reading.layout == "text":
            yield from _reader("text", "read_text")(path, reading.encoding)
        else:
            yield from _reader(reading.layout, f"read_{reading.layout}")(path)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # whatever a broken file makes a library stumble over
        raise DataError("broken_file", f"The file is damaged: {_sentence(error)}.") from error


def _reader(module: str, function: str) -> Callable[..., Rows]:
    """Imported when first needed: most files need no pyarrow."""
    return getattr(importlib.import_module(f"{__name__}.{module}"), function)


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
