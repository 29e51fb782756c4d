"""Which examples of a frozen dataset are learnt from and which are held back. Knows nothing of models.

Without folds, as they were frozen. With folds, the train split is divided into as many parts, and one of them is held
back to judge by: a function of the dataset and of these two numbers alone. The validation split chooses the checkpoint,
as it does without folds, so that no model is judged by what chose it; the test split stays out of it, for whatever is
trained once the knobs are found. What belongs together is in one part (near-duplicates, a person's, what augmentation
made of one text), as far as the dataset says it, and texts that differ only in case and white space otherwise; the
parts are about as large as each other, and so is each label's share of them. A label that only one part has is learnt
from in every fold, since it could not be told where it is held back.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from training.datasets.examples import Example, LabelledExample
from training.datasets.frozen import read_groups, read_manifest, read_split
from training.datasets.texts import comparable_text
from training.trainer.failures import TrainingFailure

Use = Literal["train", "validation", "test"]
_ENOUGH = 8  # of what has a label, to see that it is in more parts than one
Numbered = Iterable[tuple[int, Example]]


class Examples:
    """Each with its line of its split's file, from 1; with folds, the part that is held back is the test."""

    def __init__(self, folder: Path, folds: int = 0, fold: int = 0) -> None:
        """Raises TrainingFailure `data` and DataError."""
        self._folder = folder
        self._is_held: bytearray | None = None
        if folds:
            salt = read_manifest(folder).recipe.split.salt
            parts = _parts(read_split(folder, "train"), read_groups(folder, "train"), folds, salt)
            self._is_held = bytearray(part == fold - 1 for part in parts)

    def of(self, use: Use) -> Numbered:
        if self._is_held is None or use == "validation":
            return enumerate(read_split(self._folder, use), 1)
        rows = enumerate(zip(read_split(self._folder, "train"), self._is_held, strict=True), 1)
        return ((line, example) for line, (example, held) in rows if held == (use == "test"))

    def called(self, use: Use) -> str:
        """What people call it."""
        return "part that is held back" if self._is_held is not None and use == "test" else f"{use} split"


def _parts(examples: Iterable[Example], groups: array[int], folds: int, salt: str) -> list[int]:
    """The part of each example, from 0: what belongs together is dealt out by label, the largest first, that of a label
    and a size by its salted hash. `folds`: in none of them. `groups`: see `read_groups`."""
    keys = array("Q")
    having: dict[str, set[int]] = {}  # of each label, some of what has it; "" is none at all
    strata: dict[
        int, int
    ] = {}  # of what belongs together: the hash of its labels, the smallest where they differ
    for number, example in enumerate(examples):
        labels = sorted(example.labels) if isinstance(example, LabelledExample) else []
        key = _hash(salt, f"{groups[number]:x}" if groups else comparable_text(example))
        stratum = _hash(salt, *labels)
        keys.append(key)
        if isinstance(example, LabelledExample) and example.value is None:
            for label in filter(None, labels) if labels else ("",):
                theirs = having.setdefault(label, set())
                if len(theirs) < _ENOUGH:
                    theirs.add(key)
        strata[key] = min(strata.get(key, stratum), stratum)
    if len(strata) < folds:
        raise TrainingFailure(
            "data", f"The dataset has {len(strata)} different texts, which are too few for {folds} folds."
        )
    sizes = Counter(keys)
    part_of: dict[int, int] = {}
    held, of_label = [0] * folds, [0] * folds
    stratum = -1
    for key in sorted(strata, key=lambda key: (strata[key], -sizes[key], key)):
        if strata[key] != stratum:
            stratum, of_label = strata[key], [0] * folds
        part = min(range(folds), key=lambda part: (of_label[part], held[part]))
        part_of[key] = part
        of_label[part] += sizes[key]
        held[part] += sizes[key]
    for _, theirs in sorted(having.items()):
        if len({part_of[key] for key in theirs}) == 1:
            part_of[min(theirs)] = folds
    if len({*part_of.values()} - {folds}) < folds:
        raise TrainingFailure(
            "data", f"Too few texts have a label that others have, too, to be judged by in {folds} folds."
        )
    return [part_of[key] for key in keys]


def _hash(salt: str, *parts: str) -> int:
    whole = "\0".join(("folds", salt, *parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(whole, digest_size=8).digest())
