"""A classifier's head: from the pooled state of a text to what is said of it. Knows nothing of the model before it.

The trainer judges by `answers` what workers serve by it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.formats.classifier_card import ADAPTERS_SCORE, SCORE, SCORE_FILE, VALUE, Card, read_card
from inference.formats.errors import ModelFileError
from inference.formats.safetensors_file import StoredTensor, read_headers

_FILES = ((SCORE_FILE, SCORE), ("adapter_model.safetensors", ADAPTERS_SCORE), ("model.safetensors", SCORE))


@dataclass(frozen=True, eq=False)
class Head:
    card: Card
    score: NDArray[np.float32]  # [outputs, hidden_size]
    digest: str  # SHA-256 of the card and the score

    def scores(self, state: Sequence[float]) -> dict[str, float]:
        """Of a pooled state [hidden_size]: a probability for each label, or of a regressor its VALUE."""
        said: list[float] = answers(self.card, self.score @ np.asarray(state, dtype=np.float32)).tolist()
        return dict(zip(self.card.labels or [VALUE], said, strict=True))


def answers(card: Card, logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logits [..., outputs] as probabilities, which add up to one but for multi-label; or as numbers in the unit of the
    data. In fp64, in which probabilities of several labels add up to one."""
    exact = logits.astype(np.float64)
    match card.kind:
        case "regression":
            return exact * card.std + card.mean
        case "multilabel":
            return np.exp(-np.logaddexp(0, -exact))
        case _:
            powers = np.exp(exact - exact.max(axis=-1, keepdims=True))
            return powers / powers.sum(axis=-1, keepdims=True)


def read_head(folder: Path, hidden_size: int | None = None) -> Head:
    """Of an adapter's folder or a whole model's; `hidden_size` is the model's, where that is still to be compared.

    Raises ModelFileError, which says what is wrong.
    """
    card, described = read_card(folder)
    stored = _find(folder)
    wanted = (card.outputs, hidden_size or math.prod(stored.shape[1:]))
    if stored.dtype != "F32" or stored.shape != wanted:
        raise ModelFileError(
            stored.file,
            f"stores the head as {stored.dtype} {list(stored.shape)}, but the model and its labels ask for F32 "
            f"{list(wanted)}.",
        )
    try:
        with stored.file.open("rb") as file:
            file.seek(stored.start)
            data = file.read(4 * stored.elements)
    except OSError as error:
        raise ModelFileError(stored.file, f"cannot be read: {error.strerror}.") from error
    score = np.frombuffer(data, dtype="<f4")
    if len(score) != stored.elements or not np.isfinite(score).all():
        raise ModelFileError(stored.file, "holds a head that is cut short or not finite.")
    digest = hashlib.sha256(f"{len(described)}:".encode() + described + data)
    return Head(card, score.reshape(stored.shape), digest.hexdigest())


def _find(folder: Path) -> StoredTensor:
    for name, tensor in _FILES:
        if (folder / name).is_file():
            found = read_headers([folder / name]).get(tensor)
            if found is None:
                raise ModelFileError(folder / name, f"has no {tensor}, the head of the classifier.")
            return found
    raise ModelFileError(folder, "holds no head of a classifier.")
