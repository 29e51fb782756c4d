"""How often each label is rightly and wrongly given where a text may have several: a picture, a table, a sentence.

Knows no database.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import NamedTuple

from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from training.cell_picture import Cell, picture, shade_of
from training.trainer.evaluation import Classification, ClassScore

MOST_LABELS = 30  # of a picture
_WORST = 3


class Mistaken(NamedTuple):
    label: str
    missed: int
    wrongly: int

    @property
    def mistakes(self) -> int:
        return self.missed + self.wrongly


@dataclass
class ByLabel:
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    worst: list[Mistaken]  # labels
    all_labels: int

    @property
    def picture(self) -> SafeString:
        return picture(self.columns, self.rows, _("%(row)s, %(column)s: %(times)s"))


def by_label(found: Classification) -> ByLabel | None:
    """None where a text has one label, and where there is nothing to count."""
    counted = [score for score in found.classes if score.confusion is not None]
    if found.kind != "multilabel" or not counted:
        return None
    mistaken = [_mistaken(score) for score in counted]
    shown = sorted(heapq.nlargest(MOST_LABELS, range(len(counted)), key=lambda n: mistaken[n].mistakes))
    worst = heapq.nlargest(_WORST, mistaken, key=lambda each: each.mistakes)
    return ByLabel(
        columns=[_("Rightly given"), _("Missed"), _("Wrongly given"), _("Rightly not given")],
        rows=[(counted[n].label, _cells(counted[n])) for n in shown],
        worst=[each for each in worst if each.mistakes],
        all_labels=len(counted),
    )


def _mistaken(score: ClassScore) -> Mistaken:
    assert score.confusion is not None
    return Mistaken(score.label, missed=score.confusion[1][0], wrongly=score.confusion[0][1])


def _cells(score: ClassScore) -> list[Cell]:
    """Each as deep as its share of the examples that have the label, or of those that have not."""
    assert score.confusion is not None
    (without, wrongly), (missed, rightly) = score.confusion
    has, has_not = rightly + missed, wrongly + without
    return [
        Cell(rightly, shade_of(rightly, has), "right"),
        Cell(missed, shade_of(missed, has), "wrong"),
        Cell(wrongly, shade_of(wrongly, has_not), "wrong"),
        Cell(without, shade_of(without, has_not), "right"),
    ]
