"""How good predictions are, by scikit-learn. Knows nothing of models: only of what was true and what was answered.

The shape of what comes of it is in evaluation.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics

from inference.formats.classifier_card import THRESHOLD
from training.trainer.confusion import most_confused
from training.trainer.evaluation import (
    MOST_DRAWN,
    ROC_POINTS,
    SCATTER_POINTS,
    Averages,
    Classification,
    ClassScore,
    Evaluation,
    Majority,
    Regression,
)
from training.trainer.labelled_split import Target
from training.trainer.survey import Survey

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def score(
    survey: Survey, outputs: Sequence[Sequence[float]], targets: Sequence[Target], about: dict[str, Any]
) -> Evaluation:
    """outputs [examples, labels], probabilities, or [examples, 1], numbers; `about`: what is said of any evaluation."""
    if survey.kind == "regression":
        return _regression(survey, np.array(outputs, np.float64)[:, 0], np.array(targets, np.float64), about)
    truth = np.zeros((len(targets), len(survey.labels)), np.bool_)
    for row, numbers in zip(truth, targets, strict=True):
        assert isinstance(numbers, tuple)
        row[list(numbers)] = True
    return _classification(survey, np.array(outputs, np.float64), truth, about)


def _classification(survey: Survey, outputs: Floats, truth: Flags, about: dict[str, Any]) -> Classification:
    several = survey.kind == "multilabel"
    answers = outputs >= THRESHOLD if several else np.zeros_like(truth)
    if not several:
        answers[np.arange(len(answers)), outputs.argmax(axis=1)] = True
    reasons: dict[str, str] = {}
    drawn = len(survey.labels) <= MOST_DRAWN
    confusion, confused = None, None
    if several:
        reasons["confusion"] = "A text may have several labels; each label has a matrix of its own."
    else:
        numbers = range(len(survey.labels))
        matrix = metrics.confusion_matrix(
            truth.argmax(axis=1), answers.argmax(axis=1), labels=numbers
        ).tolist()
        if drawn:
            confusion = matrix
        else:
            reasons["confusion"] = f"There are more than {MOST_DRAWN} labels."
            confused = most_confused(survey.labels, matrix)
    classes = [
        _class(label, truth[:, n], answers[:, n], outputs[:, n], drawn=drawn)
        for n, label in enumerate(survey.labels)
    ]
    macro = _averages(truth, answers, outputs)
    if macro.roc_auc is None:
        reasons["macro.roc_auc"] = "No label both occurs and is missing among these examples."
    if macro.f1 is None:
        reasons |= dict.fromkeys(
            ("macro.precision", "macro.recall", "macro.f1"),
            "None of these examples has a label, and none was given one.",
        )
    commonest = np.tile(np.isin(survey.labels, survey.commonest), (len(truth), 1))
    return Classification(
        task="classification",
        kind=survey.kind,
        labels=survey.labels,
        accuracy=float(metrics.accuracy_score(truth, answers)),
        macro=macro,
        majority=Majority(list(survey.commonest), float(metrics.accuracy_score(truth, commonest))),
        classes=classes,
        confusion=confusion,
        confused=confused,
        reasons=reasons,
        **about,
    )


def _class(label: str, truth: Flags, answers: Flags, outputs: Floats, *, drawn: bool) -> ClassScore:
    support, answered = int(truth.sum()), int(answers.sum())
    found = ClassScore(label=label, support=support, reasons={})
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        truth, answers, average="binary", zero_division=0.0
    )
    if answered:
        found.precision = float(precision)
    else:
        found.reasons["precision"] = "No example was given this label."
    if support:
        found.recall = float(recall)
    else:
        found.reasons["recall"] = "No example has this label."
    if answered or support:
        found.f1 = float(f1)
    else:
        found.reasons["f1"] = "No example has this label, and none was given it."
    matrix = metrics.confusion_matrix(truth, answers, labels=[False, True])
    found.confusion = tuple(tuple(map(int, row)) for row in matrix)  # type: ignore[assignment]
    if 0 < support < len(truth):
        found.roc_auc = float(metrics.roc_auc_score(truth, outputs))
        if drawn:
            found.roc = _curve(truth, outputs)
        else:
            found.reasons["roc"] = f"There are more than {MOST_DRAWN} labels."
    else:
        why = "Every example has this label." if support else "No example has this label."
        found.reasons |= {"roc_auc": why, "roc": why}
    return found


def _curve(truth: Flags, outputs: Floats) -> list[tuple[float, float]]:
    false, true, _ = metrics.roc_curve(truth, outputs)
    return [(round(float(false[n]), 6), round(float(true[n]), 6)) for n in _some(len(false), ROC_POINTS)]


def _averages(truth: Flags, answers: Flags, outputs: Floats) -> Averages:
    """Over which labels, evaluation.py says."""
    found = Averages()
    counted = np.flatnonzero(truth.any(axis=0) | answers.any(axis=0))
    if len(counted):
        # One column alone would be read as the numbers of classes: another is beside it, and counts for nothing.
        both = (np.pad(flags, ((0, 0), (0, 1))) for flags in (truth, answers))
        figures = metrics.precision_recall_fscore_support(
            *both, labels=counted, average="macro", zero_division=0.0
        )
        found.precision, found.recall, found.f1 = map(float, figures[:3])
    told_apart = truth.any(axis=0) & ~truth.all(axis=0)
    if told_apart.any():
        found.roc_auc = float(
            metrics.roc_auc_score(truth[:, told_apart], outputs[:, told_apart], average="macro")
        )
    return found


def _regression(survey: Survey, outputs: Floats, truth: Floats, about: dict[str, Any]) -> Regression:
    mse = float(metrics.mean_squared_error(truth, outputs))
    reasons: dict[str, str] = {}
    r2 = None
    if len(truth) < 2 or not truth.var():
        reasons["r2"] = "All of these examples have the same number."
    else:
        r2 = float(metrics.r2_score(truth, outputs))
    return Regression(
        task="regression",
        kind="regression",
        mse=mse,
        rmse=mse**0.5,
        mae=float(metrics.mean_absolute_error(truth, outputs)),
        r2=r2,
        mean_mse=float(metrics.mean_squared_error(truth, np.full_like(truth, survey.mean))),
        scatter=[(float(truth[n]), float(outputs[n])) for n in _some(len(truth), SCATTER_POINTS)],
        reasons=reasons,
        **about,
    )


def _some(count: int, most: int) -> list[int]:
    """Evenly from all, the first and the last among them."""
    return (
        list(range(count)) if count <= most else np.linspace(0, count - 1, most).round().astype(int).tolist()
    )
