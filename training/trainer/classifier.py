"""A trained classifier or regressor, read back from where it was saved: texts in, probabilities out.

What it is stands in classifier.json beside the weights. Knows nothing of how it was trained, or of how good it is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open

from inference.engine.interface import ModelLoadError
from inference.engine.loaded_model import LoadedModel, load_model
from training.datasets.examples import LabelledExample
from training.encoding import Encoder
from training.trainer.attention import PackedAttention
from training.trainer.data import chunks
from training.trainer.evaluation import Kind
from training.trainer.failures import TrainingFailure
from training.trainer.labelled_split import LabelledSplit, Target
from training.trainer.lora import LoraAdapter
from training.trainer.model_files import SCORE_FILE
from training.trainer.peft_files import SCORE, read_lora, restore_adapter

CARD = "classifier.json"
_TOKENS = 4096  # of one forward pass


class Card(msgspec.Struct, kw_only=True):
    """classifier.json."""

    format: Literal[1] = 1
    task: Literal["classification", "regression"]
    kind: Kind
    labels: list[str]  # of the outputs, in order; regression has one output and no label
    pooling: Literal["last"] = "last"  # the head reads the last token's final state, normed
    threshold: float = 0.5  # of multi-label: from which probability on a text has a label
    mean: float  # of regression: the output times `std` plus `mean` is in the unit of the data
    std: float
    max_length: int  # tokens; what is beyond is cut off
    base: str  # SHA-256 of the content of the model that an adapter is for


class Classifier:
    def __init__(
        self, card: Card, loaded: LoadedModel, adapter: LoraAdapter | None, score: torch.Tensor
    ) -> None:
        """score [outputs, hidden_size]"""
        self.card = card
        self.encoder = Encoder(loaded.tokenizer, loaded.template, loaded.end_token_ids)
        self._loaded, self._adapter = loaded, adapter
        self._device = loaded.model.device
        self._score = score.to(self._device, torch.float32)

    @property
    def labels(self) -> list[str]:
        return self.card.labels

    def predict(self, texts: list[str]) -> list[list[float]]:
        """Of each text a probability for each label, which add up to one but for multi-label; or its number, alone.

        Raises ValueError for a text without a token.
        """
        split = LabelledSplit(lambda _: (), lambda targets: torch.zeros(len(targets)))
        split.filled(enumerate(map(LabelledExample, texts)), self.encoder, lambda: None)
        for number, why in split.refused:
            raise ValueError(f"Text {number + 1} cannot be read: {why}")
        return self.outputs(split, lambda: None)[0]

    @torch.no_grad()
    def outputs(
        self, split: LabelledSplit, beat: Callable[[], None]
    ) -> tuple[list[list[float]], list[Target]]:
        """As `predict`, of all texts of a split in their order; and their targets."""
        spans = split.spans(self.card.max_length)
        found: dict[int, list[float]] = {}
        for some in chunks(spans, _TOKENS):
            batch = split.batch(some, self._device)
            attend = PackedAttention(batch.lengths, self._loaded.config.layer_windows, self._device)
            hidden = self._loaded.model(batch.ids, batch.positions, attend, self._adapter)
            rows = self._answers(F.linear(hidden[batch.rows].float(), self._score)).tolist()
            found |= zip((span.start for span in some), rows, strict=True)
            beat()
        return [found[span.start] for span in spans], [split.target(span) for span in spans]

    def _answers(self, logits: torch.Tensor) -> torch.Tensor:
        """fp64, in which probabilities of several labels add up to one."""
        logits = logits.double()
        match self.card.kind:
            case "regression":
                return logits * self.card.std + self.card.mean
            case "multilabel":
                return logits.sigmoid()
            case _:
                return logits.softmax(dim=1)


def load(
    folder: Path, base: Path | LoadedModel | None = None, *, dtype: str = "auto", device: str = "cpu"
) -> Classifier:
    """An adapter's folder and the model it is for, or a whole model's folder alone. Raises TrainingFailure `model`."""
    try:
        card = msgspec.json.decode((folder / CARD).read_bytes(), type=Card)
        if not (folder / "adapter_config.json").is_file():
            loaded = load_model(folder, dtype=dtype, device=device, trainable=True)
            return Classifier(card, loaded, None, _whole_models_score(folder))
        if base is None:
            raise TrainingFailure("model", f"{folder.name} is an adapter; name the model it is for, too.")
        if isinstance(base, Path):
            base = load_model(base, dtype=dtype, device=device, trainable=True)
        if base.digest != card.base:
            raise TrainingFailure("model", f"{folder.name} was trained on another model than this.")
        weights = (folder / "adapter_model.safetensors").read_bytes()
        lora = read_lora((folder / "adapter_config.json").read_bytes())
        adapter = LoraAdapter(base.config, lora, seed=0).eval()
        score = torch.empty(max(len(card.labels), 1), base.config.hidden_size)
        restore_adapter(adapter, weights, score)
        return Classifier(card, base, adapter.to(base.model.device), score)
    except ModelLoadError as error:
        raise TrainingFailure("model", str(error)) from error
    except (OSError, SafetensorError, msgspec.DecodeError) as error:
        raise TrainingFailure("model", f"The classifier in {folder.name} cannot be read: {error}.") from error


def _whole_models_score(folder: Path) -> torch.Tensor:
    file = folder / SCORE_FILE
    with safe_open(str(file if file.is_file() else folder / "model.safetensors"), framework="pt") as opened:
        score: torch.Tensor = opened.get_tensor(SCORE)
    return score
