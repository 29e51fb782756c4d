"""The figures of a classifier are those that scikit-learn makes of the same answers, whichever labels occur."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from tests.training.trainer.test_label_jobs import classified

FIGURES = ("precision", "recall", "f1")


def outputs_for(answers: list[int], labels: int) -> list[list[float]]:
    """Probabilities that say so, each example in another degree."""
    rows = np.full((len(answers), labels), 0.1)
    for number, answer in enumerate(answers):
        rows[number, answer] = 0.5 + number / 100
    return (rows / rows.sum(axis=1, keepdims=True)).tolist()


@pytest.mark.parametrize(
    ("truth", "answers"),
    [
        ([0, 1, 2, 0, 1, 2], [0, 2, 2, 0, 1, 0]),
        ([0, 1, 0, 1], [0, 2, 1, 1]),  # c was given and does not occur
        ([0, 2, 0, 2], [0, 0, 0, 0]),  # b neither occurs nor was given, and c was never given
        ([1, 1, 1], [1, 2, 0]),
        ([1, 1, 1], [2, 2, 0]),  # nothing is right
        ([1], [1]),
    ],
)
def test_figures_of_one_label_a_text_are_those_of_scikit_learn_left_to_itself(
    truth: list[int], answers: list[int]
) -> None:
    found = classified("multiclass", "abc", outputs_for(answers, 3), [(label,) for label in truth])
    wanted = metrics.precision_recall_fscore_support(truth, answers, average="macro", zero_division=0)
    assert [found["macro"][name] for name in FIGURES] == pytest.approx(wanted[:3])
    assert found["accuracy"] == metrics.accuracy_score(truth, answers)
    assert found["majority"]["accuracy"] == metrics.accuracy_score(truth, [0] * len(truth))


def test_a_label_that_does_not_occur_counts_in_the_means_where_it_was_given() -> None:
    truth = [(0,), (0,), (1,), (1,)]
    unspoken = classified("multiclass", "abcd", outputs_for([0, 0, 1, 1], 4), truth)
    assert unspoken["macro"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "roc_auc": 1.0}
    given = classified("multiclass", "abcd", outputs_for([0, 0, 1, 3], 4), truth)
    assert given["macro"]["precision"] == pytest.approx((1 + 1 + 0) / 3)
    assert given["macro"]["recall"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert given["macro"]["f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    absent = given["classes"][3]
    assert (absent["support"], absent["precision"], absent["recall"], absent["f1"]) == (0, 0.0, None, 0.0)
    assert absent["reasons"]["recall"] == "No example has this label."


def test_several_labels_a_text_are_averaged_over_the_same_labels_and_right_only_when_all_are() -> None:
    truth = [(0, 1), (0,), (), (1,)]
    outputs = [[0.9, 0.8, 0.1, 0.2], [0.9, 0.6, 0.1, 0.3], [0.2, 0.1, 0.7, 0.1], [0.3, 0.9, 0.4, 0.1]]
    found = classified("multilabel", "abcd", outputs, truth)
    rows = np.array([[label in labels for label in range(4)] for labels in truth])
    answers = np.array(outputs) >= 0.5
    wanted = metrics.precision_recall_fscore_support(
        rows, answers, labels=[0, 1, 2], average="macro", zero_division=0
    )
    assert [found["macro"][name] for name in FIGURES] == pytest.approx(wanted[:3])
    assert found["accuracy"] == metrics.accuracy_score(rows, answers) == 0.5
    assert found["macro"]["roc_auc"] == metrics.roc_auc_score(rows[:, :2], np.array(outputs)[:, :2])
    assert found["majority"]["accuracy"] == 0.25


def test_the_area_under_the_curve_is_that_of_one_against_the_rest_where_there_are_both() -> None:
    random = np.random.default_rng(5)
    outputs = random.dirichlet([1, 1, 1], size=30)
    truth = [int(label) for label in random.integers(0, 3, size=30)]
    found = classified("multiclass", "abc", outputs.tolist(), [(label,) for label in truth])
    wanted = metrics.roc_auc_score(truth, outputs, multi_class="ovr", average="macro")
    assert found["macro"]["roc_auc"] == pytest.approx(wanted)
    assert found["macro"]["roc_auc"] == pytest.approx(np.mean([one["roc_auc"] for one in found["classes"]]))
    # Of c, which does not occur, there is none.
    two = [min(label, 1) for label in truth]
    found = classified("multiclass", "abc", outputs.tolist(), [(label,) for label in two])
    areas = [metrics.roc_auc_score(np.equal(two, label), outputs[:, label]) for label in (0, 1)]
    assert found["macro"]["roc_auc"] == pytest.approx(np.mean(areas))
    assert found["classes"][2]["roc_auc"] is None


def test_one_label_that_was_given_wrongly_counts_for_nothing_right() -> None:
    found = classified("multilabel", "a", [[0.2], [0.7]], [(), ()])
    assert found["macro"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "roc_auc": None}
    assert "macro.f1" not in found["reasons"]
    silent = classified("multilabel", "a", [[0.2], [0.3]], [(), ()])
    assert silent["macro"] == {"precision": None, "recall": None, "f1": None, "roc_auc": None}
    assert {f"macro.{name}" for name in (*FIGURES, "roc_auc")} <= silent["reasons"].keys()
    assert (silent["accuracy"], silent["majority"]["accuracy"]) == (1.0, 0.0)
