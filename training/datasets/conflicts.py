"""Which labelled texts have another label than the same text had before. Knows nothing of files."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from training.datasets.examples import Example, LabelledExample
from training.datasets.texts import comparable_text

Keys = npt.NDArray[np.uint64]


def text_and_answer(example: Example) -> tuple[int, int]:
    """Keys of what is labelled, whatever its case and white space, and of its labels; zeros where nobody can disagree:
    about an example without a text or without labels that were said. Of numbers each may be as right as the other."""
    if not isinstance(example, LabelledExample) or example.value is not None:
        return 0, 0
    if not example.text or (example.labels and not any(example.labels)):
        return 0, 0
    return _key(comparable_text(example)), _key(*sorted(filter(None, example.labels)))


def find_conflicts(texts: Keys, answers: Keys) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows that disagree with an earlier one, and of each the first of its text."""
    rows = np.flatnonzero(texts)
    _, first, inverse = np.unique(texts[rows], return_index=True, return_inverse=True)
    earlier = rows[first[inverse]]
    disagree = answers[rows] != answers[earlier]
    return rows[disagree], earlier[disagree]


def _key(*parts: str) -> int:
    whole = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(whole, digest_size=8).digest()) or 1
