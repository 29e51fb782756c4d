"""Counts as a grid of coloured cells, drawn in the page's colours: SVG. Knows nothing of what is counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple
from xml.etree import ElementTree

from django.utils.formats import number_format
from django.utils.safestring import SafeString, mark_safe

CellKind = Literal["right", "wrong", "mixed"]  # its colour; mixed: right and wrong
_SHADES = 10
# Pixels: the picture is as large as its words need, and where a screen is narrower it is scrolled.
_ROW, _NARROWEST, _LETTER, _GAP, _PADDING = 30, 34, 7.5, 2, 8
_LETTERS = 18  # of a label; the whole one is in a table


class Cell(NamedTuple):
    times: int
    shade: int  # in tenths, of 1
    kind: CellKind


def shade_of(part: int, whole: int) -> int:
    """Its share in tenths; whatever there is has a colour."""
    return -(-part * _SHADES // whole) if whole else 0


def picture(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell]]], title: str) -> SafeString:
    """Rows from top to bottom with their labels at the left, columns with theirs above, set upwards.

    `title`: what a cell is called, with %(row)s, %(column)s and %(times)s.
    """
    longest = max(len(_said(cell.times)) for _label, cells in rows for cell in cells)
    wide = max(_NARROWEST, round(longest * _LETTER) + 2 * _PADDING)
    margin, head = (
        round(max(_width(_short(label)) for label in labels)) + 2 * _PADDING
        for labels in ([label for label, _cells in rows], columns)
    )
    across, down = margin + len(columns) * wide, head + len(rows) * _ROW
    root = _element(
        None, "svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {across} {down}", width=across, height=down,
        aria_hidden="true", focusable="false",
    )  # fmt: skip
    for x, label in enumerate(columns):
        middle, foot = margin + (x + 0.5) * wide, head - _PADDING
        at = {"x": middle, "y": foot, "transform": f"rotate(-90 {middle} {foot})"}
        _text(root, label, "name", dominant_baseline="central", **at)
    for y, (label, cells) in enumerate(rows):
        top = head + y * _ROW
        _text(root, label, "name end", x=margin - _PADDING, y=top + _ROW / 2, dominant_baseline="central")
        for x, cell in enumerate(cells):
            words = {"row": label, "column": columns[x], "times": _said(cell.times)}
            _field(root, cell, title % words, (margin + x * wide, top, wide))
    return mark_safe(ElementTree.tostring(root, encoding="unicode"))  # noqa: S308 - every text in it is escaped


def _field(root: ElementTree.Element, cell: Cell, title: str, place: tuple[int, int, int]) -> None:
    """A cell's colour and number. Noughts are only a colour: what is there stands out."""
    left, top, wide = place
    holder = _element(root, "g", class_=f"{cell.kind} shade-{cell.shade}")
    size = {"width": wide - _GAP, "height": _ROW - _GAP}
    _element(holder, "rect", x=left + _GAP / 2, y=top + _GAP / 2, rx=3, **size)
    if cell.times:
        _element(holder, "title").text = title
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
