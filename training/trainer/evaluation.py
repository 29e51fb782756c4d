"""What a finished classifier or regressor is worth: the shape of evaluation.json. Knows no torch, numpy or sklearn.

Computed once, of the best checkpoint as it was saved and is read back, on examples that were not learnt from. Floats
are null where they are not defined, and `reasons` then says why, in a sentence, by field. For classification:

    {"task": "classification", "kind": "binary", "split": "test", "fold": 0, "folds": 0,
     "examples": 120, "refused": 0, "step": 60,
     "labels": ["ham", "spam"],
     "accuracy": 0.95,
     "macro": {"precision": 0.94, "recall": 0.93, "f1": 0.935, "roc_auc": 0.98},
     "majority": {"labels": ["ham"], "accuracy": 0.61},
     "classes": [{"label": "ham", "support": 73, "precision": 0.95, "recall": 0.97, "f1": 0.96, "roc_auc": 0.98,
                  "roc": [[0.0, 0.0], [0.01, 0.6], [1.0, 1.0]], "confusion": [[45, 2], [3, 70]],
                  "reasons": {}}, ...],
     "confusion": [[70, 3], [2, 45]], "confused": null,
     "reasons": {}}

and for regression, all in the unit of the data:

    {"task": "regression", "kind": "regression", "split": "validation", "fold": 0, "folds": 0,
     "examples": 80, "refused": 0, "step": 40,
     "mse": 2.1, "rmse": 1.45, "mae": 1.1, "r2": 0.72, "mean_mse": 7.6,
     "scatter": [[3.0, 2.8], ...],
     "reasons": {}}
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from inference.formats.classifier_card import Kind

Judged = Literal["test", "validation", "fold"]  # "fold": the part that a cross-validation held back
ROC_POINTS = 200  # of one curve, at most
SCATTER_POINTS = 500
MOST_DRAWN = (
    100  # labels: with more there are no curves, and of the confusion matrix only the part in `confused`
)


class ClassScore(msgspec.Struct, kw_only=True):
    """One label against all others."""

    label: str
    support: int  # examples that have it
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    roc_auc: float | None = None
    roc: list[tuple[float, float]] | None = None  # false and true positive rate, from (0, 0) to (1, 1)
    confusion: tuple[tuple[int, int], tuple[int, int]] | None = None  # ((TN, FP), (FN, TP))
    reasons: dict[str, str] = {}  # why a field is null


class Averages(msgspec.Struct, kw_only=True):
    """scikit-learn's macro averages with zero_division=0, over the labels that it counts of a text's one label: those
    that an example has or was given.

    So a label that occurs and was never predicted has precision 0 here, and one that was predicted and does not occur
    has precision, recall and F1 0: whoever gives a label that is not there is worse than who does not. Of a label that
    neither occurs nor was predicted nothing is known, so it does not count, also where a text may have several.
    """

    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    roc_auc: float | None = None  # one against the rest, over the labels where it is defined


class Majority(msgspec.Struct):
    """What whoever always answers the commonest labels of the train split gets: the least to beat."""

    labels: list[str]  # one, but for multi-label: the commonest set of them
    accuracy: float | None


class _Judgement(msgspec.Struct, kw_only=True):
    task: Literal["classification", "regression"]
    kind: Kind
    split: Judged
    fold: int  # 0: no cross-validation
    folds: int
    examples: int  # judged
    refused: int  # of the split, which could not be: empty ones
    step: int  # the checkpoint's
    reasons: dict[str, str] = {}


class Confused(msgspec.Struct):
    """The part of a confusion matrix with the labels that are confused most, all the others summed up."""

    labels: list[str]
    counts: list[list[int]]  # rows are true, columns predicted; the last of each is all other labels together
    others: int  # labels
    others_right: int  # of the last row's last: where true and predicted are the same


class Classification(_Judgement, kw_only=True):
    labels: list[str]
    accuracy: float | None  # multi-label: all labels of the example right
    macro: Averages
    majority: Majority
    classes: list[ClassScore]  # in the order of `labels`
    confusion: list[list[int]] | None  # rows are true, columns predicted; null for multi-label: see classes
    confused: Confused | None = (
        None  # where there are too many labels for `confusion`; older evaluations lack it
    )


class Regression(_Judgement, kw_only=True):
    mse: float | None
    rmse: float | None
    mae: float | None
    r2: float | None
    mean_mse: float | None  # of always answering the mean of the train split: the least to beat
    scatter: list[tuple[float, float]]  # true and predicted, evenly taken from all


Evaluation = Classification | Regression


def headline(evaluation: dict[str, Any]) -> dict[str, float | None]:
    """The few figures of an evaluation.json that are shown first, by name."""
    if evaluation["task"] == "regression":
        return {name: evaluation[name] for name in ("mse", "rmse", "mae", "r2")}
    return {"accuracy": evaluation["accuracy"], **evaluation["macro"]}


def summarise_folds(evaluations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of a cross-validation's evaluation.json: {"folds", "examples", "figures": {name: {"mean", "std", "folds"}}}.

    `std` is the sample's (n - 1), null for a single fold; folds where a figure is null are left out, and `folds` of the
    figure says how many there were.
    """
    found: dict[str, list[float]] = {}
    for evaluation in evaluations:
        for name, value in headline(evaluation).items():
            found.setdefault(name, []).extend([] if value is None else [value])
    return {
        "folds": len(evaluations),
        "examples": sum(evaluation["examples"] for evaluation in evaluations),
        "figures": {name: _spread(values) for name, values in found.items()},
    }


def _spread(values: list[float]) -> dict[str, float | int | None]:
    count = len(values)
    mean = sum(values) / count if count else None
    std = None
    if mean is not None and count > 1:
        std = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    return {"mean": mean, "std": std, "folds": count}
