"""The text of a web page: scripts and styles dropped, nothing run, nothing fetched. Knows nothing of layout.

Our own walk over the tags, in time linear in the page: parsers that build the tree, and Python's own, take time in the
square of what is nested or left open, which a page made for it turns into hours.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

from training.datasets.encodings import open_text
from training.datasets.limits import MAX_PAGE_FILE
from training.datasets.problems import DataError
from training.datasets.readers.documents import documents
from training.datasets.readers.rows import Rows

_NAME = re.compile(r"/?([a-zA-Z][a-zA-Z0-9]*)")
_QUOTE_OR_END = re.compile("[\"'>]")
_NOT_READ = frozenset(
    ("script", "style", "template", "noscript", "svg", "math", "iframe", "object", "select")
)
# Elements that begin on a line of their own; those of the second kind begin a paragraph, too.
_LINES = re.compile("br|li|tr|dt|dd|option")
_PARAGRAPHS = re.compile(
    "address|article|aside|blockquote|body|caption|center|details|div|dl|fieldset|figcaption|figure|footer|form|h[1-6]"
    "|head|header|hr|html|legend|main|nav|ol|p|pre|section|summary|table|tbody|textarea|tfoot|thead|title|ul"
)


def read_html(path: Path, encoding: str) -> Rows:
    """Raises DataError `file_too_long`."""
    if path.stat().st_size > MAX_PAGE_FILE:
        raise DataError("file_too_long", f"A web page over {MAX_PAGE_FILE // 2**20} MB is not read.")
    with open_text(path, encoding) as text:
        page = text.read()
    title, paragraphs = page_text(page)
    yield from documents(paragraphs, title)


def page_text(page: str) -> tuple[str, list[tuple[int, str]]]:
    """Its title, and its paragraphs with the line each begins on."""
    title = ""
    paragraphs: list[tuple[int, str]] = []
    line, counted, begin = 1, 0, 1
    in_title = in_pre = False
    pieces: list[str] = []

    def flush() -> None:
        nonlocal pieces, title
        held = html.unescape("".join(pieces))
        pieces = []
        rows = held.split("\n")
        held = (
            "\n".join(row for row in (" ".join(row.split()) for row in rows) if row) if not in_pre else held
        )
        if in_title:
            title = title or " ".join(held.split())[:200]
        elif held.strip():
            paragraphs.append((begin, held))

    for kind, at, content in _walk(page):
        line += page.count("\n", counted, at)
        counted = at
        if kind == "text":
            begin = begin if pieces else line
            pieces.append(content if in_pre else re.sub(r"\s+", " ", content))
            continue
        name = content.removeprefix("/")
        if _PARAGRAPHS.fullmatch(name):
            flush()
            if name == "title":
                in_title = content == "title"
            elif name == "pre":
                in_pre = content == "pre"
        elif _LINES.fullmatch(name):
            pieces.append("\n")
        elif name in ("td", "th"):
            pieces.append(" ")
    flush()
    return title, paragraphs


def _walk(page: str) -> Iterator[tuple[str, int, str]]:
    """("text", where, text) and ("tag", where, "name" or "/name"), without what is not read."""
    position, length = 0, len(page)
    folded = page.lower() if page.isascii() else re.sub("[A-Z]+", lambda m: m.group().lower(), page)
    none_left: set[str] = set()  # what was looked for to the end, and will not be again

    def find(what: str, start: int) -> int:
        found = folded.find(what, start) if what not in none_left else -1
        if found < 0:
            none_left.add(what)
        return found

    while position < length:
        opening = find("<", position)
        if opening < 0:
            yield "text", position, page[position:]
            return
        if opening > position:
            yield "text", position, page[position:opening]
        if folded.startswith("<!--", opening):
            closing = find("-->", opening + 4)
            position = closing + 3 if closing >= 0 else length
            continue
        named = _NAME.match(folded, opening + 1)
        if named is None:
            if folded.startswith(("<!", "<?"), opening):
                closing = find(">", opening)
                position = closing + 1 if closing >= 0 else length
            else:
                yield "text", opening, "<"
                position = opening + 1
            continue
        position = _tag_end(folded, named.end(), find)
        if named.group() in _NOT_READ:
            closing = find(f"</{named.group()}", position)
            position = closing if closing >= 0 else length
        else:
            yield "tag", opening, named.group()


def _tag_end(page: str, position: int, find: object) -> int:
    """Behind its ">", which a quoted attribute may contain."""
    assert callable(find)
    while (found := _QUOTE_OR_END.search(page, position)) is not None:
        if found.group() == ">":
            return found.end()
        closing = find(found.group(), found.end())
        position = closing + 1 if closing >= 0 else found.end()  # never closed: it quotes nothing
    return len(page)
