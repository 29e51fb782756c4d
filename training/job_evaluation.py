"""A classifier's evaluation.json as tables and pictures for the page of its job. Knows no database."""

from __future__ import annotations

from typing import Any

import msgspec
from django.utils.translation import gettext as _

from training import job_charts
from training.confusion_picture import matrix
from training.job_words import in_reader_language
from training.label_picture import by_label
from training.trainer.evaluation import Classification, ClassScore, Evaluation, Regression

MOST_CURVES = 6  # more cannot be told apart
LABELS_AT_ONCE = 30  # of a table; the others are a click away, and what follows is not far


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
        "reasons": _reasons(found),
        "judged_on": judged_on(found.split),
        "scatter": job_charts.scatter(found.scatter) if found.scatter else "",
    }


def _classification(found: Classification) -> dict[str, Any]:
    curves, shown, labels = drawn_curves(found), matrix(found), by_label(found)
    return {
        "evaluation": found,
        "first_classes": found.classes[:LABELS_AT_ONCE],
        "more_classes": found.classes[LABELS_AT_ONCE:],
        "reasons": _reasons(found, matrix_shown=shown is not None or labels is not None),
        "judged_on": judged_on(found.split),
        "roc": job_charts.roc([score.roc or [] for score in curves]) if curves else "",
        "curves": curves,
        "matrix": shown,
        "by_label": labels,
    }


def _reasons(found: Evaluation, *, matrix_shown: bool = False) -> list[str]:
    """Why something that is looked for is not there."""
    told = {name: why for name, why in found.reasons.items() if not (matrix_shown and name == "confusion")}
    return [in_reader_language(why) for why in dict.fromkeys(told.values())]


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
