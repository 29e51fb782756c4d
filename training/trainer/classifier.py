"""A trained classifier or regressor, read back from where it was saved: texts in, probabilities out.

What it is stands in classifier.json beside the weights (`inference.formats.classifier_card`). Knows nothing of how it
was trained, or of how good it is. Workers serve it through the engine, with the same head (`inference.engine.head`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
import torch.nn.functional as F
from safetensors import SafetensorError

from inference.engine.head import Head, answers, read_head
from inference.engine.interface import ModelLoadError
from inference.engine.loaded_model import LoadedModel, load_model
from inference.formats.errors import ModelFileError
from training.datasets.examples import LabelledExample
from training.encoding import Encoder
from training.trainer.attention import PackedAttention
from training.trainer.data import chunks
from training.trainer.failures import TrainingFailure
from training.trainer.labelled_split import LabelledSplit, Target
from training.trainer.lora import LoraAdapter
from training.trainer.peft_files import read_lora, restore_adapter

_TOKENS = 4096  # of one forward pass


class Classifier:
    def __init__(self, head: Head, loaded: LoadedModel, adapter: LoraAdapter | None) -> None:
        self.card = head.card
        self.encoder = Encoder(loaded.tokenizer, loaded.template, loaded.end_token_ids)
        self._loaded, self._adapter = loaded, adapter
        self._device = loaded.model.device
        self._score = torch.tensor(head.score, device=self._device)

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
            logits = F.linear(hidden[batch.rows].float(), self._score)
            rows = answers(self.card, logits.cpu().numpy()).tolist()
            found |= zip((span.start for span in some), rows, strict=True)
            beat()
        return [found[span.start] for span in spans], [split.target(span) for span in spans]


def load(
    folder: Path, base: Path | LoadedModel | None = None, *, dtype: str = "auto", device: str = "cpu"
) -> Classifier:
    """An adapter's folder and the model it is for, or a whole model's folder alone. Raises TrainingFailure `model`."""
    try:
        if not (folder / "adapter_config.json").is_file():
            loaded = load_model(folder, dtype=dtype, device=device, trainable=True)
            return Classifier(read_head(folder, loaded.config.hidden_size), loaded, None)
        if base is None:
            raise TrainingFailure("model", f"{folder.name} is an adapter; name the model it is for, too.")
        if isinstance(base, Path):
            base = load_model(base, dtype=dtype, device=device, trainable=True)
        head = read_head(folder, base.config.hidden_size)
        if base.digest != head.card.base:
            raise TrainingFailure("model", f"{folder.name} was trained on another model than this.")
        lora = read_lora((folder / "adapter_config.json").read_bytes())
        adapter = LoraAdapter(base.config, lora, seed=0).eval()
        restore_adapter(adapter, (folder / "adapter_model.safetensors").read_bytes())
        return Classifier(head, base, adapter.to(base.model.device))
    except ModelLoadError as error:
        raise TrainingFailure("model", str(error)) from error
    except (OSError, SafetensorError, msgspec.DecodeError, ModelFileError) as error:
        raise TrainingFailure("model", f"The classifier in {folder.name} cannot be read: {error}.") from error
