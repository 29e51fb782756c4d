"""The text of a PDF, page by page. Scripts, forms and attachments are never run or opened."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pypdf
import pypdf.errors

from training.datasets.codes import shown
from training.datasets.problems import DataError
from training.datasets.readers.documents import documents
from training.datasets.readers.rows import Note, Rows

_SURROGATES = re.compile("[\ud800-\udfff]")
logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it tells of every irregularity of every file


def read_pdf(path: Path) -> Rows:
    """Raises DataError `encrypted_file`, `broken_file` or `no_text`."""
    try:
        with pypdf.PdfReader(path) as reader:
            if reader.is_encrypted and not reader.decrypt(""):
                raise DataError("encrypted_file", "The PDF is locked with a password.")
            title = _clean(str((reader.metadata and reader.metadata.get("/Title")) or ""))[:200].strip()
            found = False
            scans: list[int] = []
            for row in documents(_paragraphs(reader, scans), title):
                found = True
                yield row
    except pypdf.errors.DependencyError as error:
        raise DataError("encrypted_file", "The PDF is locked in a way that is not supported.") from error
    if not found:
        raise DataError("no_text", "The PDF has no text in it.")
    if scans:
        yield Note("pages_without_text", f"Pages with pictures and no text: {shown(_spans(scans), 200)}.")


def _paragraphs(reader: pypdf.PdfReader, scans: list[int]) -> Iterator[tuple[int, str]]:
    """Each with its page; `scans` gets the pages that have pictures alone."""
    for number, page in enumerate(reader.pages, 1):
        text = _clean(page.extract_text())
        if not text.strip() and _has_pictures(page):
            scans.append(number)
        for paragraph in re.split(r"\n[ \t]*\n", text):
            yield number, paragraph.strip()


def _has_pictures(page: pypdf.PageObject) -> bool:
    try:
        resources = page["/Resources"]["/XObject"].values()  # type: ignore[index]
        return any(each.get_object()["/Subtype"] == "/Image" for each in resources)
    except Exception:  # it has none, or is broken where nobody needs it
        return False


def _spans(pages: list[int]) -> str:
    """2-4, 7"""
    spans: list[list[int]] = []
    for page in pages:
        if spans and page == spans[-1][1] + 1:
            spans[-1][1] = page
        else:
            spans.append([page, page])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def _clean(text: str) -> str:
    return _SURROGATES.sub("�", text).replace("\0", "")
