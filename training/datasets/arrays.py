"""Arrays with a row for each example, in .npz files with one for each part. Knows nothing of what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.datasets.fingerprints import Fingerprints

Array = npt.NDArray[Any]


def load_apart(files: Sequence[Path], name: str) -> list[Array]:
    """The array of that name in each file."""
    arrays: list[Array] = []
    for file in files:
        with np.load(file, allow_pickle=False) as stored:
            arrays.append(stored[name])
    return arrays


def load(files: Sequence[Path], name: str) -> Array:
    """Those of all files, one after another."""
    return np.concatenate(load_apart(files, name))


def load_fingerprints(files: Sequence[Path]) -> Fingerprints:
    return Fingerprints(load(files, "exact"), load(files, "bands"), load(files, "sketches"))
