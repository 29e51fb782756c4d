"""What a job learns: from which data, and how far off the model is. Knows nothing of steps, processes or files written.

The loop is the same for all of them: it sums what `summed_loss` answers over what counts in a step, and divides.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch

from training.datasets.frozen import read_manifest
from training.encoding import Encoder
from training.trainer.classifier import Classifier
from training.trainer.data import TokenizedSplit
from training.trainer.evaluation import Evaluation
from training.trainer.failures import TrainingFailure
from training.trainer.folds import Examples, Use
from training.trainer.labelled import Labelled
from training.trainer.loss import summed_cross_entropy
from training.trainer.spec import Spec

Beat = Callable[[], None]


class Objective(Protocol):
    """Of one job; it has looked through the dataset once it is there."""

    outputs: int  # of a head of its own, beside the model; 0: what is learnt is the vocabulary's head

    def read(self, use: Use, encoder: Encoder, beat: Beat) -> TokenizedSplit:
        """`beat` is called often, and may raise. Raises DataError where the dataset is broken."""

    def summed_loss(
        self, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, *, training: bool
    ) -> torch.Tensor:
        """hidden [rows, size], head [outputs or vocabulary, size], targets of the split's batch -> fp64, the sum over
        all that counts."""

    def described(self, files: dict[str, bytes], max_length: int, base: str) -> dict[str, bytes]:
        """The files of what is served, which say what it is; `base` is the digest of the model it was begun from."""

    def evaluate(self, reopened: Callable[[], Classifier], step: int, beat: Beat) -> Evaluation | None:
        """How good what was saved is, once it is read back; None where there is nothing to judge, or to judge by."""


class LanguageModelling:
    """The next token, wherever the encoder says that it is learnt."""

    outputs = 0

    def __init__(self, spec: Spec) -> None:
        kind = read_manifest(Path(spec.dataset)).kind
        if kind == "labelled":
            raise TrainingFailure(
                "data",
                "The dataset holds labelled texts, and language is learnt from conversations, documents or "
                "translations; labels are learnt by the task classification, and numbers by regression.",
            )
        self._examples = Examples(Path(spec.dataset))
        self._smoothing = spec.label_smoothing

    def read(self, use: Use, encoder: Encoder, beat: Beat) -> TokenizedSplit:
        return TokenizedSplit().filled(self._examples.of(use), encoder, beat)

    def summed_loss(
        self, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, *, training: bool
    ) -> torch.Tensor:
        return summed_cross_entropy(hidden, head, targets, self._smoothing if training else 0.0)

    def described(self, files: dict[str, bytes], max_length: int, base: str) -> dict[str, bytes]:
        return files

    def evaluate(self, reopened: Callable[[], Classifier], step: int, beat: Beat) -> None:
        return None


def objective_of(spec: Spec, beat: Beat) -> Objective:
    """Looks through the dataset. Raises TrainingFailure `data` where it does not fit the task, and DataError."""
    return LanguageModelling(spec) if spec.task in ("language", "scratch") else Labelled(spec, beat)
