"""A classifier's evaluation.json as tables and pictures for the page of its job. Knows no database."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from django.utils.translation import gettext as _

from training import job_charts
from training.trainer.evaluation import Classification, ClassScore, Regression

MOST_CURVES = 6  # more cannot be told apart
MOST_CELLS = 30  # labels of a confusion matrix that a screen can show
_SHADES = 10


class Cell(NamedTuple):
    """A field of the confusion matrix. `shade`: its share of the row, in tenths."""

    times: int
    shade: int
    is_right: bool


def evaluation_context(found: dict[str, Any] | None) -> dict[str, Any]:
    """What training/job_evaluation.html shows."""
    if not found:
        return {"evaluation": None}
    if found["task"] == "regression":
        return _regression(msgspec.convert(found, Regression))
    return _classification(msgspec.convert(found, Classification))


def _regression(found: Regression) -> dict[str, Any]:
    return {
        "evaluation": found,
        "judged_on": judged_on(found.split),
        "scatter": job_charts.scatter(found.scatter) if found.scatter else "",
    }


def _classification(found: Classification) -> dict[str, Any]:
    curves = drawn_curves(found)
    return {
        "evaluation": found,
        "judged_on": judged_on(found.split),
        "is_multilabel": found.kind == "multilabel",
        "roc": job_charts.roc([score.roc or [] for score in curves]) if curves else "",
        "curves": curves,
        "matrix": matrix(found),
    }


def judged_on(split: str) -> str:
    return {
        "test": _("On the test split, which it never saw."),
        "validation": _(
            "On the validation split, for want of a test split: the best checkpoint was chosen by it, so expect less."
        ),
        "fold": _("On the part that the cross-validation held back."),
    }[split]


def drawn_curves(found: Classification) -> list[ClassScore]:
    """Of two labels one says it all; of many, the commonest are drawn."""
    scores = [score for score in found.classes if score.roc]
    if found.kind == "binary":
        return scores[-1:]
    commonest = sorted(scores, key=lambda score: -score.support)[:MOST_CURVES]
    return [score for score in scores if score in commonest]


def matrix(found: Classification) -> list[tuple[str, list[Cell]]]:
    """The rows of the confusion matrix: the true label, and how often each was predicted for it."""
    if found.confusion is None or len(found.labels) > MOST_CELLS:
        return []
    return [
        (label, [_cell(count, sum(row), x == y) for x, count in enumerate(row)])
        for y, (label, row) in enumerate(zip(found.labels, found.confusion, strict=True))
    ]


def _cell(count: int, whole: int, is_right: bool) -> Cell:
    return Cell(count, -(-count * _SHADES // whole) if whole else 0, is_right)
