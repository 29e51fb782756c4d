"""Which code page a text that is not in Unicode was written in. Knows nothing of files.

chardet says how likely each is; of those as likely, the one is taken that puts letters and signs where people do.
"""

from __future__ import annotations

import codecs
import re

# What programs that people have wrote and write, Windows' first: of pages that say the same the first is taken.
_WINDOWS = ("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp874")
_ASIAN = ("cp932", "euc_jis_2004", "cp949", "gb18030", "big5hkscs")
CODE_PAGES = (*_WINDOWS, *_ASIAN, "iso8859-2", "koi8-r", "mac-roman", "cp850", "cp852", "cp866")
# What a web page says it is in, and what browsers then take it to be in.
_DECLARED = re.compile(rb"(?:charset|encoding)\s*=\s*[\"']?([\w.:-]{2,40})", re.IGNORECASE)
_MEANT = {
    "iso8859-1": "cp1252", "ascii": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874", "tis-620": "cp874",
    "shift_jis": "cp932", "euc_jp": "euc_jis_2004", "euc_kr": "cp949", "gb2312": "gb18030", "gbk": "gb18030",
    "big5": "big5hkscs",
}  # fmt: skip
_OF_ANOTHER_SCRIPT = frozenset(("cp1251", "cp1253", "cp1255", "cp1256", "cp874", "koi8-r", "cp866"))
_WESTERN = frozenset(("cp1252", "mac-roman", "cp850"))
_AS_LIKELY, _FAR_LIKELIER = 0.99, 1.3
_CELL_END = re.compile(rb'[,;\t\r\n"]')
_SIGNS = frozenset("’‘“”„–—…•€£°©®™·«»¿¡§½¼¾²³×ºª¥±\xa0")
_BETWEEN_LETTERS = frozenset("’–—·…")
_STRANGE = re.compile(r"[^\x00-\x7f]")
_LETTER = r"(?![A-Za-z])[^\W\d_]"  # other than of ASCII
_AMONG_LATIN = re.compile(f"(?<=[A-Za-z]){_LETTER}|{_LETTER}(?=[A-Za-z])")
_AMONG_THEIR_OWN = re.compile(f"{_LETTER}(?={_LETTER})")


def declared(page: bytes) -> str:
    """The codec's name that a web page says, where it is one of these; else ""."""
    found = _DECLARED.search(page[:4096])
    try:
        name = codecs.lookup(found[1].decode()).name if found else ""
    except LookupError:
        return ""
    name = _MEANT.get(name, name)
    return name if name in CODE_PAGES else ""


def code_page_of(text: bytes) -> str:
    """The codec's name. `text`: not in Unicode, with lines that are in ASCII alone or without."""
    cells = b"\n".join(cell for cell in _CELL_END.split(text) if not cell.isascii())
    page, likelihoods = _most_likely(cells)
    usual, _ = _most_likely(text)  # what surrounds them tells the language, where they are in the same
    is_sure = page not in _WESTERN and likelihoods[page] > _FAR_LIKELIER * likelihoods.get(usual, 0.0)
    return page if is_sure else usual


def _most_likely(text: bytes) -> tuple[str, dict[str, float]]:
    """The page, and how likely each is."""
    from chardet import detect_all  # few files need it

    found = detect_all(text, include_encodings=CODE_PAGES, compat_names=False, ignore_threshold=True)
    likelihoods = {page: each["confidence"] for each in found if (page := each["encoding"]) in CODE_PAGES}
    read = {page: text.decode(page, "replace") for page in likelihoods}
    possible = [page for page in CODE_PAGES if page in read and not _mixes_scripts(page, read[page])]
    most = max((likelihoods[page] for page in possible), default=0.0)
    likely = [page for page in possible if likelihoods[page] >= _AS_LIKELY * most]
    return min(likely, key=lambda page: _oddities(read[page]), default=CODE_PAGES[0]), likelihoods


def _mixes_scripts(page: str, text: str) -> bool:
    """Perchй, where Perché was meant: no word has letters of two scripts."""
    if page not in _OF_ANOTHER_SCRIPT:
        return False
    return len(_AMONG_LATIN.findall(text)) > len(_AMONG_THEIR_OWN.findall(text))


def _oddities(text: str) -> int:
    """How many of its characters stand where nobody puts such: ú0.99 where £0.99 was meant, ň in donňt."""
    return sum(_is_odd(match.group(), text, match.start()) for match in _STRANGE.finditer(text))


def _is_odd(character: str, text: str, at: int) -> bool:
    before, after = text[max(0, at - 1) : at], text[at + 1 : at + 2]
    if character in _SIGNS:
        return character not in _BETWEEN_LETTERS and before.isalpha() and after.isalpha()
    if not character.isalpha():
        return True
    if before.isdigit() or after.isdigit() or not (before.isalpha() or after.isalpha()):
        return True
    return character.isupper() and before.islower()
