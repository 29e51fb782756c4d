"""What labels or numbers a dataset has, before anything is learnt from it. Knows nothing of models or torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, TypeVar

from inference.formats.classifier_card import Kind
from training.datasets.examples import LabelledExample
from training.datasets.problems import DataError
from training.trainer.failures import TrainingFailure
from training.trainer.folds import Examples, Use

_MOST_LABELS = 1000
_NAMED = 5
_LOOKED_AT_ONCE = 1000
_USES: tuple[Use, ...] = ("train", "validation", "test")
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Survey:
    kind: Kind
    examples: int = 0  # to learn from
    labels: list[str] = field(default_factory=list)  # those of the train split, sorted
    counts: list[int] = field(default_factory=list)  # how many examples of the train split have each
    commonest: tuple[str, ...] = ()  # label, or set of labels
    mean: float = 0.0  # of the numbers of the train split
    std: float = 1.0


def labels_of(example: LabelledExample) -> tuple[str, ...]:
    """Sorted; none is an answer, too. Raises DataError where nobody said any."""
    labels = tuple(sorted({label for label in example.labels if label}))
    if not labels and (example.labels or example.value is not None):
        raise DataError("bad_label", "The text has no label.")
    return labels


def value_of(example: LabelledExample) -> float:
    """Raises DataError where there is none."""
    if example.value is None:
        raise DataError("bad_value", "The text has no number.")
    return example.value


def survey(
    examples: Examples, task: Literal["classification", "regression"], beat: Callable[[], None]
) -> Survey:
    """`beat` is called often, and may raise. Raises TrainingFailure `data` where there is nothing to tell apart."""
    return _labels(examples, beat) if task == "classification" else _values(examples, beat)


def _labels(examples: Examples, beat: Callable[[], None]) -> Survey:
    sets = {use: _counted(examples, use, labels_of, beat) for use in _USES}
    train = sets["train"]
    several = any(len(labels) != 1 for counted in sets.values() for labels in counted)
    counts: Counter[str] = Counter()
    for labels, number in train.items():
        counts.update(dict.fromkeys(labels, number))
    if not counts:
        raise TrainingFailure(
            "data", "No example to learn from has a label, so there is nothing to tell apart."
        )
    if len(train) == 1:
        (labels,) = train
        raise TrainingFailure(
            "data",
            f"Every example to learn from has the same label, {_quoted(labels)}, so there is nothing to tell apart.",
        )
    if len(counts) > _MOST_LABELS:
        raise TrainingFailure(
            "data",
            f"There are {len(counts)} different labels, and a classifier tells at most {_MOST_LABELS} apart; are they "
            "labels, or numbers to learn by the task regression?",
        )
    for use in _USES[1:]:
        unknown = {label for labels in sets[use] for label in labels} - counts.keys()
        if unknown:
            raise TrainingFailure(
                "data",
                f"{_quoted(sorted(unknown))} occurs in the {examples.called(use)} and in no example to learn from; add "
                "some of it, leave it out, or split the data otherwise.",
            )
    return Survey(
        kind="multilabel" if several else "binary" if len(counts) == 2 else "multiclass",
        examples=train.total(),
        labels=sorted(counts),
        counts=[counts[label] for label in sorted(counts)],
        commonest=min(train, key=lambda labels: (-train[labels], labels)),
    )


def _values(examples: Examples, beat: Callable[[], None]) -> Survey:
    counted = _counted(examples, "train", value_of, beat)
    if not counted:
        raise TrainingFailure(
            "data", "No example to learn from has a number; labels are learnt by the task classification."
        )
    if len(counted) == 1:
        (value,) = counted
        raise TrainingFailure(
            "data", f"Every example to learn from has the number {value:g}, so there is nothing to predict."
        )
    total = counted.total()
    try:
        mean = math.fsum(value * number for value, number in counted.items()) / total
        variance = math.fsum((value - mean) ** 2 * number for value, number in counted.items()) / total
    except (OverflowError, ValueError):  # of sums beyond what a number can be, and of such in both directions
        variance = 0.0
    if not 0 < variance < math.inf:
        raise TrainingFailure("data", "The numbers are too large or too close together to be learnt.")
    return Survey("regression", examples=total, mean=mean, std=math.sqrt(variance))


def _counted(
    examples: Examples, use: Use, read: Callable[[LabelledExample], _Answer], beat: Callable[[], None]
) -> Counter[_Answer]:
    """How often each answer occurs; what cannot be read is told when it is left out."""
    counted: Counter[_Answer] = Counter()
    left = iter(examples.of(use))
    while some := list(islice(left, _LOOKED_AT_ONCE)):
        for _, example in some:
            if not isinstance(example, LabelledExample):
                raise DataError(
                    "dataset_broken", f"The dataset says that it is labelled, and in {use} is another kind."
                )
            try:
                counted[read(example)] += 1
            except DataError:
                continue
        beat()
    return counted


def _quoted(labels: list[str] | tuple[str, ...]) -> str:
    named = ", ".join(f'"{label[:80]}"' for label in labels[:_NAMED])
    return f"{named} and {len(labels) - _NAMED} more" if len(labels) > _NAMED else named or "none"
