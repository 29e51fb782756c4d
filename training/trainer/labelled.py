"""Labels and numbers of texts as something to learn: the objective of classification and regression.

Knows nothing of steps, processes or files. The losses are those of transformers' models for sequence classification:
cross-entropy of one label among several, the mean of the labels' binary cross-entropies where a text may have several,
and squared error, here of numbers standardised by the train split's mean and deviation.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
import torch.nn.functional as F

from inference.formats.classifier_card import CARD_FILE, Card
from training.datasets.examples import LabelledExample
from training.datasets.frozen import read_manifest
from training.encoding import Encoder
from training.trainer.classifier import Classifier
from training.trainer.evaluation import Evaluation, Judged
from training.trainer.failures import TrainingFailure
from training.trainer.folds import Examples, Use
from training.trainer.labelled_split import LabelledSplit, Target
from training.trainer.spec import Spec
from training.trainer.survey import labels_of, survey, value_of

CONFIG = "config.json"


class Labelled:
    """See training.trainer.objective.Objective."""

    def __init__(self, spec: Spec, beat: Callable[[], None]) -> None:
        """Raises TrainingFailure `data` and DataError."""
        assert spec.task == "classification" or spec.task == "regression"
        self._spec, self._task = spec, spec.task
        kind = read_manifest(Path(spec.dataset)).kind
        if kind != "labelled":
            raise TrainingFailure(
                "data",
                f"{spec.task.capitalize()} learns from labelled texts, and the dataset is of the kind {kind}.",
            )
        self._examples = Examples(Path(spec.dataset), spec.folds, spec.fold)
        self._survey = survey(self._examples, spec.task, beat)
        self._number = {label: number for number, label in enumerate(self._survey.labels)}
        self.outputs = max(len(self._survey.labels), 1)
        self._weights = self._balanced() if spec.class_weights == "balanced" else None

    def read(self, use: Use, encoder: Encoder, beat: Callable[[], None]) -> LabelledSplit:
        return LabelledSplit(self._target, self._stacked).filled(self._examples.of(use), encoder, beat)

    def summed_loss(
        self, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, *, training: bool
    ) -> torch.Tensor:
        """targets: int64 [rows], the labels' numbers; of multi-label fp32 [rows, labels], 0 or 1; of regression fp32
        [rows], standardised. Smoothing and weights are of the training alone."""
        logits = F.linear(hidden.float(), head.float())
        smoothing = self._spec.label_smoothing if training else 0.0
        weights = self._weights.to(logits.device) if training and self._weights is not None else None
        if self._survey.kind == "regression":
            losses = (logits.squeeze(1) - targets) ** 2
        elif self._survey.kind == "multilabel":
            smooth = targets * (1 - smoothing) + smoothing / 2
            losses = F.binary_cross_entropy_with_logits(
                logits, smooth, pos_weight=weights, reduction="none"
            ).mean(dim=1)
        else:
            losses = F.cross_entropy(
                logits, targets, weight=weights, label_smoothing=smoothing, reduction="none"
            )
        return losses.double().sum()

    def described(self, files: dict[str, bytes], max_length: int, base: str) -> dict[str, bytes]:
        found = self._survey
        card = Card(
            task=self._task,
            kind=found.kind,
            labels=found.labels,
            mean=found.mean,
            std=found.std,
            max_length=max_length,
            base=base,
        )
        described = files | {CARD_FILE: msgspec.json.format(msgspec.json.encode(card), indent=1)}
        if CONFIG in files:
            described[CONFIG] = self._transformers_config(files[CONFIG])
        return described

    def _transformers_config(self, config: bytes) -> bytes:
        """A whole model's, for AutoModelForSequenceClassification."""
        labels = self._survey.labels or ["value"]
        problem = {
            "regression": "regression",
            "multilabel": "multi_label_classification",
        }.get(self._survey.kind, "single_label_classification")
        values = msgspec.json.decode(config) | {
            "id2label": {str(number): label for number, label in enumerate(labels)},
            "label2id": {label: number for number, label in enumerate(labels)},
            "problem_type": problem,
        }
        return msgspec.json.format(msgspec.json.encode(values), indent=1)

    def evaluate(
        self, reopened: Callable[[], Classifier], step: int, beat: Callable[[], None]
    ) -> Evaluation | None:
        from training.trainer import scoring  # sklearn takes a second to import, and nothing else needs it

        classifier = reopened()
        uses: list[tuple[Use, Judged]] = [("test", "test"), ("validation", "validation")]
        if self._spec.folds:
            uses = [("test", "fold")]
        for use, judged in uses:
            split = self.read(use, classifier.encoder, beat)
            if not split.lengths:
                continue
            outputs, targets = classifier.outputs(split, beat)
            about = {
                "split": judged,
                "fold": self._spec.fold,
                "folds": self._spec.folds,
                "examples": len(targets),
                "refused": len(split.refused),
                "step": step,
            }
            return scoring.score(self._survey, outputs, targets, about)
        return None

    def _target(self, example: LabelledExample) -> Target:
        if self._task == "regression":
            return value_of(example)
        return tuple(self._number[label] for label in labels_of(example))

    def _stacked(self, targets: list[Target]) -> torch.Tensor:
        if self._survey.kind == "regression":
            values = torch.tensor(targets, dtype=torch.float64)
            return ((values - self._survey.mean) / self._survey.std).float()
        if self._survey.kind == "multilabel":
            rows = torch.zeros(len(targets), self.outputs)
            for row, numbers in zip(rows, targets, strict=True):
                row[list(numbers)] = 1.0  # type: ignore[arg-type]
            return rows
        return torch.tensor(targets, dtype=torch.int64).squeeze(1)

    def _balanced(self) -> torch.Tensor:
        """As scikit-learn's class_weight="balanced". Of multi-label what a label counts where it is there: as many
        times as there are texts without it for each that has it."""
        counts = torch.tensor(self._survey.counts, dtype=torch.float32)
        if self._survey.kind == "multilabel":
            return (self._survey.examples - counts).clamp(min=1) / counts
        return self._survey.examples / (len(counts) * counts)
