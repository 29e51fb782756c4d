"""Records on disk as reading leaves them, and a model's folder with nothing in it but what texts need."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from training.datasets.examples import ChatExample, Example, LabelledExample, Message, Record

_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_records(folder: Path, records: Sequence[Record | Example], *, shards: int = 1) -> Path:
    """`folder/records`; lines are numbered from 1 where a bare example says none."""
    (folder / "records").mkdir(parents=True)
    whole = [r if isinstance(r, Record) else Record(r, 0, n) for n, r in enumerate(records, 1)]
    size = -(-len(whole) // shards)
    for shard in range(shards):
        lines = (msgspec.json.encode(record) + b"\n" for record in whole[shard * size : (shard + 1) * size])
        (folder / "records" / f"{shard:05}.jsonl").write_bytes(b"".join(lines))
    return folder


def chat(question: str, answer: str, *more: str) -> ChatExample:
    texts = [question, answer, *more]
    return ChatExample([Message("assistant" if n % 2 else "user", text) for n, text in enumerate(texts)])


def labelled(text: str, *labels: str) -> LabelledExample:
    return LabelledExample(text, list(labels))


def sentence(seed: object, words: int = 30) -> str:
    """Unlike those of other seeds."""
    chance = random.Random(str(seed))
    return " ".join(
        "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(words)
    )


def model_folder(folder: Path) -> Path:
    """One token for each byte of a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({character: n for n, character in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>")])
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    named = {"eos_token": "<|im_end|>", "chat_template": _CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 512, "vocab_size": 300}))
    (folder / "model.safetensors").touch()
    return folder
