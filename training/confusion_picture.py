"""A classifier's confusion matrix as a picture in the page's colours, a table and a sentence. Knows no database."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any, NamedTuple
from xml.etree import ElementTree

from django.utils.formats import number_format
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from training.trainer.confusion import most_confused
from training.trainer.evaluation import Classification, Confused

MOST_LABELS = 30  # of a picture with all of them
_BESIDE = 8
_PAIRS = 3
_SHADES = 10
# Pixels: the picture is as large as its words need, and where a screen is narrower it is scrolled.
_ROW, _NARROWEST, _LETTER, _GAP, _PADDING = 30, 34, 7.5, 2, 8
_LETTERS = 18  # of a label; the whole one is in the table


class Cell(NamedTuple):
    """A field of the matrix. `shade`: its share of the row, in tenths."""

    times: int
    shade: int
    is_right: bool
    is_mixed: bool  # where all other labels meet: right and wrong


class Pair(NamedTuple):
    true: str
    predicted: str
    times: int


@dataclass
class Matrix:
    labels: list[str]  # the last is that of all others, where there are any
    rows: list[tuple[str, list[Cell]]]  # the true label, and how often each was predicted for it
    pairs: list[Pair]  # the likeliest mistakes
    others: int  # labels
    others_right: int

    @property
    def is_wide(self) -> bool:
        """Whether a curve has no room beside it on a desktop."""
        return len(self.labels) > _BESIDE

    @property
    def shown(self) -> int:
        return len(self.labels) - bool(self.others)

    @property
    def together(self) -> int:
        """Examples whose true label and whose predicted one are both among the others."""
        return self.rows[-1][1][-1].times

    @property
    def picture(self) -> SafeString:
        return _picture(self)


def matrix(found: Classification) -> Matrix | None:
    """None where a text may have several labels, and of many labels in evaluations that did not keep it yet."""
    if found.confusion is not None and len(found.labels) <= MOST_LABELS:
        return _matrix(Confused(found.labels, found.confusion, 0, 0))
    if found.confusion is not None:
        return _matrix(most_confused(found.labels, found.confusion))
    return _matrix(found.confused) if found.confused is not None else None


def _matrix(part: Confused) -> Matrix:
    labels = list(part.labels)
    if part.others:
        labels.append(
            ngettext("%(n)s other", "%(n)s others", part.others) % {"n": number_format(part.others)}
        )
    last = len(labels) - 1 if part.others else None
    rows = [
        (label, [_cell(count, sum(row), x, y, last) for x, count in enumerate(row)])
        for y, (label, row) in enumerate(zip(labels, part.counts, strict=True))
    ]
    mistakes = (
        Pair(labels[y], labels[x], count)
        for y, row in enumerate(part.counts)
        for x, count in enumerate(row)
        if x != y and count and last not in (x, y)
    )
    pairs = heapq.nlargest(_PAIRS, mistakes, key=lambda pair: pair.times)
    return Matrix(labels, rows, pairs, part.others, part.others_right)


def _cell(count: int, whole: int, x: int, y: int, last: int | None) -> Cell:
    shade = -(-count * _SHADES // whole) if whole else 0
    return Cell(count, shade, x == y != last, x == y == last)


# --- Drawn ------------------------------------------------------------------------------------------------------
def _picture(found: Matrix) -> SafeString:
    """Rows from top to bottom with their labels at the left, columns with theirs above, set upwards."""
    longest = max(len(_said(cell.times)) for _label, cells in found.rows for cell in cells)
    wide = max(_NARROWEST, round(longest * _LETTER) + _PADDING)
    margin = round(max(_width(_short(label)) for label in found.labels)) + 2 * _PADDING
    across, down = margin + len(found.labels) * wide, margin + len(found.labels) * _ROW
    root = _element(
        None, "svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {across} {down}", width=across, height=down,
        aria_hidden="true", focusable="false",
    )  # fmt: skip
    for x, label in enumerate(found.labels):
        middle, foot = margin + (x + 0.5) * wide, margin - _PADDING
        at = {"x": middle, "y": foot, "transform": f"rotate(-90 {middle} {foot})"}
        _text(root, label, "name", dominant_baseline="central", **at)
    for y, (label, cells) in enumerate(found.rows):
        top = margin + y * _ROW
        _text(root, label, "name end", x=margin - _PADDING, y=top + _ROW / 2, dominant_baseline="central")
        for x, cell in enumerate(cells):
            _field(root, found, (x, y), cell, (margin + x * wide, top, wide))
    return mark_safe(ElementTree.tostring(root, encoding="unicode"))  # noqa: S308 - every text in it is escaped


def _field(
    root: ElementTree.Element, found: Matrix, at: tuple[int, int], cell: Cell, place: tuple[int, int, int]
) -> None:
    """A cell's colour and number. Noughts are only a colour: what is wrong stands out."""
    left, top, wide = place
    kind = "right" if cell.is_right else "mixed" if cell.is_mixed else "wrong"
    holder = _element(root, "g", class_=f"{kind} shade-{cell.shade}")
    size = {"width": wide - _GAP, "height": _ROW - _GAP}
    _element(holder, "rect", x=left + _GAP / 2, y=top + _GAP / 2, rx=3, **size)
    if cell.times:
        true, predicted = (found.labels[n] for n in (at[1], at[0]))
        words = {"true": true, "predicted": predicted, "times": _said(cell.times)}
        _element(holder, "title").text = _("%(true)s, predicted as %(predicted)s: %(times)s") % words
        middle = {"x": left + wide / 2, "y": top + _ROW / 2, "dominant_baseline": "central"}
        _element(holder, "text", **middle).text = _said(cell.times)


def _text(root: ElementTree.Element, label: str, kind: str, **attributes: Any) -> None:
    text = _element(root, "text", class_=kind, **attributes)
    text.text = _short(label)
    if text.text != label:
        _element(text, "title").text = label


def _element(parent: ElementTree.Element | None, tag: str, **attributes: Any) -> ElementTree.Element:
    named = {name.rstrip("_").replace("_", "-"): str(value) for name, value in attributes.items()}
    return ElementTree.Element(tag, named) if parent is None else ElementTree.SubElement(parent, tag, named)


def _short(label: str) -> str:
    """On one line, and not so long that nothing else has room: labels differ at either end."""
    plain = " ".join(label.split())
    if len(plain) <= _LETTERS:
        return plain
    kept = _LETTERS - 1
    return f"{plain[: kept - kept // 2]}…{plain[-(kept // 2) :]}"


def _width(text: str) -> float:
    """A wide letter, such as a Chinese one, is as wide as two."""
    return sum(2 * _LETTER if ord(letter) > 0x2E7F else _LETTER for letter in text)


def _said(count: int) -> str:
    return number_format(count, force_grouping=True)
