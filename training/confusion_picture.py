"""A classifier's confusion matrix as a picture, a table and a sentence. Knows no database."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import NamedTuple

from django.utils.formats import number_format
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from training.cell_picture import Cell, CellKind, picture, shade_of
from training.trainer.confusion import most_confused
from training.trainer.evaluation import Classification, Confused

MOST_LABELS = 30  # of a picture with all of them
_BESIDE = 8
_PAIRS = 3


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
        return picture(self.labels, self.rows, _("%(row)s, predicted as %(column)s: %(times)s"))


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
    kind: CellKind = "wrong" if x != y else "mixed" if y == last else "right"
    return Cell(count, shade_of(count, whole), kind)
