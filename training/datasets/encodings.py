"""Which characters a file's bytes are: guessed from a part of it, then read without ever failing.

Bytes that are no characters become a mark, so that only the row they are in is lost. Knows nothing of formats.
"""

from __future__ import annotations

import codecs
import io
import re
from pathlib import Path

from training.datasets.code_pages import code_page_of

SAMPLE = 4 * 2**20  # bytes that are looked at
_GUESS = 64 * 2**10  # bytes that a code page is guessed from
_AROUND = 40  # characters
MARK = "\udcff"  # a lone surrogate: no encoding gives it, so it can only come from here
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_BOMS = (  # UTF-32's begins as UTF-16's does
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def _mark(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return MARK, error.end


codecs.register_error("flywheel-mark", _mark)


def guess(sample: bytes) -> str | None:
    """The encoding of a file that begins so: all of it, or SAMPLE bytes, which may end within a character.

    None where it is not text.
    """
    for bom, encoding in _BOMS:
        if sample.startswith(bom):
            return encoding
    if wide := _wide(sample[:_GUESS]):
        return wide
    if len(_CONTROL.findall(sample[:_GUESS])) * 100 > len(sample[:_GUESS]):
        return None
    strange = [line for line in sample.splitlines(keepends=True) if not line.isascii()]
    broken = [line for line in strange if not _is_utf8(line)]
    if broken and len(sample) >= SAMPLE and sample.endswith(broken[-1]) and _is_cut_utf8(broken[-1]):
        broken.pop()
    # A few broken lines among many good ones are a mixed file, and said line by line.
    if len(broken) * 2 <= len(strange) - len(broken) or not broken:
        return "utf-8"
    plain = [line for line in sample.splitlines(keepends=True) if line.isascii()]
    return code_page_of(b"".join([*broken, *plain])[:_GUESS])


def is_bytewise(encoding: str) -> bool:
    """Whether a line break is always the one byte \\n, so that a file may be read from any line on."""
    return not codecs.lookup(encoding).name.startswith(("utf-16", "utf-32", "utf-7"))


def is_unicode(encoding: str) -> bool:
    return codecs.lookup(encoding).name.startswith("utf")


def as_in(path: Path, encoding: str) -> str:
    """What shows whether it is a file's encoding: the first line that has more than ASCII, around that; else ""."""
    with path.open("rb") as file:
        strange = (line for line in file.read(SAMPLE).splitlines() if not line.isascii())
        text = next(strange, b"").decode(encoding, "replace")
    at = next((at for at, character in enumerate(text) if not character.isascii()), 0)
    return text[max(0, at - _AROUND) : at + _AROUND]


def known(encoding: str) -> bool:
    try:
        return codecs.lookup(encoding)._is_text_encoding
    except (LookupError, ValueError):
        return False


def open_text(path: Path, encoding: str, newline: str | None = None) -> io.TextIOWrapper:
    return io.TextIOWrapper(path.open("rb"), encoding=encoding, errors="flywheel-mark", newline=newline)


def position(text: io.TextIOWrapper) -> int:
    """Bytes of the file that were read so far, somewhat ahead of the text."""
    return text.buffer.tell()  # type: ignore[attr-defined]


def _wide(sample: bytes) -> str | None:
    """UTF-16 without its mark: nearly every other byte of Latin text is zero."""
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    half = max(1, len(sample) // 2)
    if odd > 0.4 * half and even < 0.05 * half:
        return "utf-16-le"
    if even > 0.4 * half and odd < 0.05 * half:
        return "utf-16-be"
    return None


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_cut_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return False
