"""classifier.json: what a trained classifier or regressor is, beside its weights. Knows nothing of these."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from inference.formats.errors import ModelFileError

CARD_FILE = "classifier.json"
SCORE_FILE = "score.safetensors"  # the head of a classifier beside a GGUF, which has no place for it
SCORE = "score.weight"  # the head, as transformers calls it
ADAPTERS_SCORE = f"base_model.model.{SCORE}"  # as PEFT does, in an adapter's own file
VALUE = "value"  # what a regressor's number is called
Kind = Literal["binary", "multiclass", "multilabel", "regression"]
THRESHOLD = 0.5  # of multi-label: from which probability on a text has a label
_MOST_BYTES = 4 * 2**20


class Card(msgspec.Struct, kw_only=True):
    format: Literal[1] = 1
    task: Literal["classification", "regression"]
    kind: Kind
    labels: list[str]  # of the outputs, in order; regression has one output and no label
    pooling: Literal["last"] = "last"  # the head reads the last token's final state, normed
    mean: float  # of regression: the output times `std` plus `mean` is in the unit of the data
    std: float
    max_length: int  # tokens; what is beyond is cut off
    base: str  # SHA-256 of the content of the model that an adapter is for

    @property
    def outputs(self) -> int:
        return max(len(self.labels), 1)


def is_classifier(folder: Path) -> bool:
    return (folder / CARD_FILE).is_file()


def read_card(folder: Path) -> tuple[Card, bytes]:
    """The card, and the bytes it was read from. Raises ModelFileError."""
    path = folder / CARD_FILE
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ModelFileError(path, f"is larger than {_MOST_BYTES} bytes.")
        data = path.read_bytes()
        return msgspec.json.decode(data, type=Card), data
    except OSError as error:
        raise ModelFileError(path, f"cannot be read: {error.strerror}.") from error
    except msgspec.DecodeError as error:
        raise ModelFileError(path, f"does not describe a classifier: {error}.") from error
