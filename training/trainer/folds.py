"""Which examples of a frozen dataset are learnt from and which are held back. Knows nothing of models.

Without folds, as they were frozen. With folds, train and validation together are divided into as many parts, and one of
them is held back: a function of the dataset and of these two numbers alone. Texts that differ only in case and white
space are in one part, with whatever label; the parts are about as large as each other, and so is each label's share
of them. The test split stays out of it, for whatever is trained once the knobs are found.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Literal

from training.datasets.examples import Example, LabelledExample
from training.datasets.frozen import read_manifest, read_split
from training.datasets.texts import comparable_text
from training.trainer.failures import TrainingFailure

Use = Literal["train", "validation", "test"]
Numbered = Iterable[tuple[int, Example]]


class Examples:
    """Each with its line, from 1; with folds, lines of train.jsonl and then of validation.jsonl are counted through."""

    def __init__(self, folder: Path, folds: int = 0, fold: int = 0) -> None:
        """Raises TrainingFailure `data` and DataError."""
        self._folder = folder
        self._is_held: bytearray | None = None
        if folds:
            parts = _parts(self._pool(), folds, read_manifest(folder).recipe.split.salt)
            self._is_held = bytearray(part == fold - 1 for part in parts)
        self.files = "train.jsonl and validation.jsonl, counted through" if folds else "train.jsonl"

    def of(self, use: Use) -> Numbered:
        if self._is_held is None:
            return enumerate(read_split(self._folder, use), 1)
        if use == "test":
            return []
        wanted = use == "validation"
        rows = enumerate(zip(self._pool(), self._is_held, strict=True), 1)
        return ((line, example) for line, (example, held) in rows if held == wanted)

    def _pool(self) -> Iterator[Example]:
        return chain(read_split(self._folder, "train"), read_split(self._folder, "validation"))


def _parts(pool: Iterable[Example], folds: int, salt: str) -> Iterator[int]:
    """The part of each example, from 0: texts are dealt out by label, those of a label by their salted hash."""
    keys = array("Q")
    strata: dict[
        int, int
    ] = {}  # of each different text: the hash of its labels, the smallest where they differ
    for example in pool:
        labels = sorted(example.labels) if isinstance(example, LabelledExample) else []
        key = _hash(salt, comparable_text(example))
        stratum = _hash(salt, *labels)
        keys.append(key)
        strata[key] = min(strata.get(key, stratum), stratum)
    if len(strata) < folds:
        raise TrainingFailure(
            "data", f"The dataset has {len(strata)} different texts, which are too few for {folds} folds."
        )
    ordered = sorted(strata, key=lambda key: (strata[key], key))
    part_of = {key: place % folds for place, key in enumerate(ordered)}
    return (part_of[key] for key in keys)


def _hash(salt: str, *parts: str) -> int:
    whole = "\0".join(("folds", salt, *parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(whole, digest_size=8).digest())
