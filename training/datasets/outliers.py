"""Examples unlike the others in length or make-up. Knows nothing of what they say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from training.datasets.examples import Example
from training.datasets.texts import texts_of

_FAR = 6.0  # robust standard deviations
_LEAST_DEVIATION = (0.1, 0.02)  # so that data of one length or make-up does not make the least difference far
_LETTERS = bytes(set(range(256)) - set(range(0x21, 0x41)) - set(range(0x5B, 0x61)) - set(range(0x7B, 0x7F)))

Features = npt.NDArray[np.float32]  # [n, 2]


def features_of(examples: Sequence[Example]) -> Features:
    rows = np.empty((len(examples), 2), np.float32)
    for row, example in zip(rows, examples, strict=True):
        text = "\n".join(texts_of(example)).encode("utf-8", "surrogatepass")
        row[:] = np.log1p(len(text)), len(text.translate(None, _LETTERS)) / max(len(text), 1)
    return rows


def find_outliers(features: Features) -> npt.NDArray[np.bool_]:
    """Of each row whether it is one: where the logarithm of its length, or the share of digits and punctuation in it,
    is more than _FAR robust standard deviations (1.4826 times the median absolute deviation) from the median.
    """
    if not len(features):
        return np.zeros(0, bool)
    distance = np.abs(features - np.median(features, axis=0))
    deviation = np.maximum(1.4826 * np.median(distance, axis=0), _LEAST_DEVIATION)
    return np.any(distance / deviation > _FAR, axis=1)
