"""Finds personal data that has a form of its own, and puts a word in its place. Knows nothing of where texts are from.

Numbers are believed only where their own rules hold: Luhn's for cards (ISO/IEC 7812), modulo 97 for IBANs (ISO 13616).
Names, postal addresses, dates of birth, health and other facts about people have no form that a rule could know, and
are not found.
"""

from __future__ import annotations

import ipaddress
import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

KINDS = ("key", "email", "iban", "card", "ssn", "ip", "phone")  # where two find the same, the first has it


class Found(NamedTuple):
    start: int
    end: int
    kind: str


def find_personal(text: str) -> list[Found]:
    """All of it, in order, none overlapping another."""
    taken: list[Found] = []
    for kind in KINDS if _DIGIT.search(text) else ("key", "email"):
        free = [Found(*span, kind) for span in _FINDERS[kind](text) if not _overlaps(taken, *span)]
        taken = sorted(taken + free) if free else taken
    return taken


def _overlaps(taken: list[Found], start: int, end: int) -> bool:
    """Whether any of those taken, in order and apart from each other, shares a character with [start, end)."""
    after = bisect_left(taken, (start,))
    return (after > 0 and taken[after - 1].end > start) or (after < len(taken) and taken[after].start < end)


def redact(text: str, kinds: Collection[str]) -> str:
    """The text with [EMAIL] and the like in place of what is found of these kinds."""
    # What stood beside something else may be found only once that is gone.
    while found := [each for each in find_personal(text) if each.kind in kinds]:
        parts: list[str] = []
        at = 0
        for start, end, kind in found:
            parts += [text[at:start], f"[{kind.upper()}]"]
            at = end
        text = "".join(parts) + text[at:]
    return text


Spans = Iterator[tuple[int, int]]

# Patterns begin with the characters that can begin a match and look back after them: that is found ten times as fast.
_DIGIT = re.compile(r"\d")
# Scripts that write no spaces between words, or endings right behind a number: of theirs a letter beside it is no part
# of it, as "x" is of "x13".
_APART = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    r"\u2e80-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"  # Chinese, Japanese
    r"\uac00-\ud7af"  # Korean
)
_WORD = rf"[^\W{_APART}]"  # a letter or digit of the others, or "_"
_LETTER = rf"[^\W\d_{_APART}]"
_ALNUM = rf"[^\W_{_APART}]"

_KEY = re.compile(
    # One ends where the next begins: what is looked through for its end is looked through once.
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:(?!-----BEGIN )[A-Za-z0-9+/=\s:,.-])*?"
    r"(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|(?=-----BEGIN )|\Z)"
    r"|(?<![A-Za-z0-9_-])(?:"
    r"sk-[A-Za-z0-9_-]{20,200}"  # OpenAI, Anthropic
    r"|[rs]k_(?:live|test)_[A-Za-z0-9]{16,200}"  # Stripe
    r"|gh[opsur]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}|glpat-[A-Za-z0-9_-]{20,200}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}"  # AWS
    r"|AIza[A-Za-z0-9_-]{35}"  # Google
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,250}"  # Slack
    r"|hf_[A-Za-z0-9]{30,100}|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,250}"
    r"|eyJ[A-Za-z0-9_-]{10,4000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,1000}"  # a JSON web token
    r")(?![A-Za-z0-9_-])"
)
_KEY_SIGNS = (
    "-----BEGIN",
    "sk-",
    "k_",
    "gh",
    "github_pat_",
    "glpat-",
    "AKIA",
    "ASIA",
    "AIza",
    "xox",
    "hf_",
    "npm_",
    "pypi-",
    "eyJ",
)


def _keys(text: str) -> Spans:
    if any(sign in text for sign in _KEY_SIGNS):
        yield from (match.span() for match in _KEY.finditer(text))


_EMAIL = re.compile(
    rf"(?<!{_WORD})(?<![.%+-])(?:{_WORD}|[.%+-]){{1,64}}@(?:{_ALNUM}(?:(?:{_WORD}|-){{0,61}}{_ALNUM})?\.){{1,8}}"
    rf"{_LETTER}{{2,24}}(?!{_WORD}|-)"
)


def _emails(text: str) -> Spans:
    if "@" in text:
        yield from (match.span() for match in _EMAIL.finditer(text))


# ISO 13616's registry: the length of each country's.
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FK FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HU LB NI PL SV", 29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
_IBAN = re.compile(rf"[A-Za-z](?<!{_ALNUM}.)[A-Za-z]\d\d(?:[ -]?[A-Za-z0-9]){{11,29}}")
_GOES_ON = re.compile(_ALNUM)


def is_iban(text: str) -> bool:
    compact = re.sub(r"[ -]", "", text).upper()
    if len(compact) != _IBAN_LENGTHS.get(compact[:2]) or not compact.isascii():
        return False
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def _ibans(text: str) -> Spans:
    at = 0
    while match := _IBAN.search(text, at):
        at = match.start() + 1
        # Words may follow it, so it ends where its country says.
        length = _IBAN_LENGTHS.get(match.group()[:2].upper(), 0)
        ends = [place for place, c in enumerate(match.group(), match.start() + 1) if c not in " -"]
        if 0 < length <= len(ends):
            end = ends[length - 1]
            if is_iban(text[match.start() : end]) and not _GOES_ON.match(text, end):
                yield match.start(), end
                at = end


# A run of digits that may be written in groups. Bounded, so that no text takes long.
_NUMBER = re.compile(rf"[(+\d](?<!{_WORD}.)(?<![.+-].)(?:[ ()+./\u00a0\u2011-]{{0,3}}\d){{6,24}}(?!\d)")
_CARD = re.compile(r"(?:\d[ \u00a0-]?){12,18}\d")
_CARD_ISSUERS = re.compile(r"3[04-9]|4|5[0-9]|6|2[2-7]|1")
_DATE = re.compile(r"(?:\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./ ]\d{1,2}[-./ ]\d{4})(?!\d)")
_AREA_CODE = re.compile(
    r"\(?0\d{1,5}\)?[ /.\u00a0\u2011-]|\(\d{2,5}\)[ -]?\d|\d{3}[-.]\d{3}[-.]\d{4}$|0\d{9,10}$"
    r"|1[3-9]\d([ -]?)\d{4}\1\d{4}$"  # mobiles in China
)


def is_card(text: str) -> bool:
    """Luhn's check over 13 to 19 digits."""
    digits = [int(c) for c in text if c.isdecimal()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _cards(text: str) -> Spans:
    for number in _NUMBER.finditer(text):
        match = _CARD.fullmatch(number.group())
        if match and _CARD_ISSUERS.match(number.group()) and is_card(number.group()):
            yield number.span()


# The Social Security Administration's; without hyphens it is a number like any other.
_SSN = re.compile(rf"\d(?<!{_WORD}.)(?<![.+-].)\d\d-\d\d-\d{{4}}(?!{_WORD}|-)")


def is_ssn(text: str) -> bool:
    area, group, serial = text.split("-")
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def _ssns(text: str) -> Spans:
    if text.count("-") > 1:
        yield from (match.span() for match in _SSN.finditer(text) if is_ssn(match.group()))


def _phones(text: str) -> Spans:
    for match in _NUMBER.finditer(text):
        number = match.group()
        digits = sum(c.isdecimal() for c in number)
        international = "+" in number[:2] or number.startswith("00")
        national = 9 <= digits <= 12 and _AREA_CODE.match(number) and not _DATE.match(number)
        if (international and 8 <= digits <= 17) or national:
            yield match.span()


_IPV4 = re.compile(rf"\d(?<!{_WORD}.)(?<!\..)\d{{0,2}}(?:\.\d{{1,3}}){{3}}(?!{_WORD}|\.\d)")
_IPV6 = re.compile(
    rf"[0-9A-Fa-f:](?<!{_WORD}.)(?<![:.].)[0-9A-Fa-f]{{0,4}}(?::[0-9A-Fa-f]{{0,4}}){{1,8}}(?:(?:\.\d{{1,3}}){{3}})?"
    rf"(?!{_WORD}|:)"
)


_VERSION = re.compile(r"\b(?:v|ver|versions?|releases?|builds?|firmware)[.:]? ?$", re.IGNORECASE)


def _addresses(text: str) -> Spans:
    """Of machines; not those that every machine calls itself, nor what is called a version."""
    for pattern, sign in ((_IPV4, "."), (_IPV6, ":")):
        for match in pattern.finditer(text) if text.count(sign) > 1 else ():
            try:
                address = ipaddress.ip_address(match.group())
            except ValueError:
                continue
            is_version = sign == "." and _VERSION.search(text, max(0, match.start() - 12), match.start())
            if not (address.is_loopback or address.is_unspecified or match.group().isalpha() or is_version):
                yield match.span()


_FINDERS: dict[str, Callable[[str], Spans]] = {
    "key": _keys,
    "email": _emails,
    "iban": _ibans,
    "card": _cards,
    "ssn": _ssns,
    "ip": _addresses,
    "phone": _phones,
}
