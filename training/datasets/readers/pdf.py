"""The text of a PDF, page by page. Scripts, forms and attachments are never run or opened."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pypdf
import pypdf.errors

from training.datasets.problems import DataError
from training.datasets.readers.documents import documents
from training.datasets.readers.rows import Rows

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
            for row in documents(_paragraphs(reader), title):
                found = True
                yield row
    except pypdf.errors.DependencyError as error:
        raise DataError("encrypted_file", "The PDF is locked in a way that is not supported.") from error
    if not found:
        raise DataError("no_text", "The PDF has no text in it.")


def _paragraphs(reader: pypdf.PdfReader) -> Iterator[tuple[int, str]]:
    for number, page in enumerate(reader.pages, 1):
        for paragraph in re.split(r"\n[ \t]*\n", _clean(page.extract_text())):
            yield number, paragraph.strip()


def _clean(text: str) -> str:
    return _SURROGATES.sub("�", text).replace("\0", "")
