"""A tiny model and datasets to train it on, shared by the trainer's tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch

from tests.inference.tiny_models import save_model, tiny_config
from tests.training.trainer.jobs import Bench
from training.datasets.examples import ChatExample, Example, Kind, Message
from training.datasets.frozen import FORMAT, SPLITS, Manifest, SplitInfo, content_hash
from training.datasets.recipe import Recipe


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As small as a model gets, its weights of the usual size so that it can learn."""
    folder = tmp_path_factory.mktemp("tiny-base")
    save_model(folder, tiny_config(num_hidden_layers=2, initializer_range=0.05, tie_word_embeddings=True))
    return folder


def freeze(folder: Path, kind: Kind, **splits: list[Example]) -> Path:
    folder.mkdir(parents=True)
    infos = {}
    for split in SPLITS:
        data = b"".join(msgspec.json.encode(example) + b"\n" for example in splits.get(split, []))
        (folder / f"{split}.jsonl").write_bytes(data)
        infos[split] = SplitInfo(len(splits.get(split, [])), hashlib.sha256(data).hexdigest())
    manifest = Manifest(FORMAT, kind, content_hash(kind, infos), "", Recipe(), infos, [])
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return folder


def conversation(n: int) -> ChatExample:
    """Of different lengths."""
    words = ["fox", "dog", "jumps", "over", "lazy", "quick"]
    asked = " ".join(words[(n * k) % 6] for k in range(1, 2 + n % 5))
    return ChatExample(
        [Message("user", asked), Message("assistant", f"{asked} and {words[n % 6]}" * (1 + n % 3))]
    )


@pytest.fixture(scope="session")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return freeze(
        tmp_path_factory.mktemp("chats") / "frozen",
        "chat",
        train=[conversation(n) for n in range(24)],
        validation=[conversation(n) for n in range(24, 30)],
    )


@pytest.fixture
def bench(tmp_path: Path, tiny_base: Path, chats: Path) -> Bench:
    return Bench(tmp_path, tiny_base, chats)
