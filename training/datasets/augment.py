"""Changed copies of labelled texts that mean the same, after Wei and Zou's EDA (2019). Knows nothing of files.

The same text, number and settings give the same copy.
"""

from __future__ import annotations

import hashlib
import random

import msgspec

from training.datasets.examples import Example, LabelledExample
from training.datasets.recipe import Augment


def can_augment(example: Example) -> bool:
    return isinstance(example, LabelledExample) and len(set(example.text.split())) > 1


def augmented(example: LabelledExample, number: int, settings: Augment) -> LabelledExample:
    """The `number`th copy, which differs at least in the order of two words."""
    seed = f"{settings.seed} {number} {example.text}".encode("utf-8", "surrogatepass")
    chance = random.Random(hashlib.sha256(seed).digest())  # noqa: S311 - nothing secret
    words = example.text.split()
    kept = [word for word in words if chance.random() >= settings.delete]
    kept = kept if len(set(kept)) > 1 else list(words)
    differing = [place for place in range(len(kept) - 1) if kept[place] != kept[place + 1]]
    for place in differing:
        if chance.random() < settings.swap:
            _swap(kept, place)
    kept = [_mistyped(word, chance) if chance.random() < settings.typo else word for word in kept]
    if kept == words:
        _swap(kept, chance.choice(differing))
    return msgspec.structs.replace(example, text=" ".join(kept))


def _swap(words: list[str], place: int) -> None:
    words[place], words[place + 1] = words[place + 1], words[place]


def _mistyped(word: str, chance: random.Random) -> str:
    """Two letters that lie side by side change places: what fingers do."""
    if len(word) < 4:
        return word
    place = chance.randrange(1, len(word) - 2)
    return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
