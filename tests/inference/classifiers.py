"""Classifiers with random weights, saved as the trainer saves them: for tests of how they are served."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import torch

from inference.engine.loaded_model import load_model
from inference.formats.classifier_card import CARD_FILE, Card, Kind
from training.trainer.lora import LoraAdapter
from training.trainer.model_files import model_files
from training.trainer.peft_files import adapter_files
from training.trainer.spec import Lora

LABELS: dict[str, list[str]] = {
    "binary": ["no", "yes"],
    "multiclass": ["billing", "delivery", "returns", "感谢"],
    "multilabel": ["angry", "late", "lost"],
    "regression": [],
}


def save_classifier(
    folder: Path, base: Path, kind: Kind, *, method: Literal["lora", "full"] = "lora", max_length: int = 24
) -> Path:
    """For the model at `base`; of a full one all weights are the base's own."""
    torch.manual_seed(11)
    loaded = load_model(base, dtype="fp32", trainable=True)
    labels = LABELS[kind]
    score = torch.randn(max(len(labels), 1), loaded.config.hidden_size) / 4
    if method == "lora":
        adapter = LoraAdapter(loaded.config, Lora(r=4), seed=3)
        with torch.no_grad():
            for factor in adapter.b.values():
                factor.normal_(std=0.05)
        files = adapter_files(adapter, Lora(r=4), "tiny", score)
    else:
        files = model_files(loaded.model, base, torch.float32, folder.parent, score)
    card = Card(
        task="regression" if kind == "regression" else "classification",
        kind=kind,
        labels=labels,
        mean=20.0,
        std=7.5,
        max_length=max_length,
        base=loaded.digest,
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in (files | {CARD_FILE: msgspec.json.encode(card)}).items():
        (folder / name).write_bytes(data)
    return folder
