"""Takes one part of the records through the steps that need no other examples. Knows nothing of other parts.

Runs in a process of its own. Effects come back; of every example that is left, an .npz file has what the rest of a
recipe needs, and beside it, where they are to be frozen, its lines are as they will be.
"""

from __future__ import annotations

from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np

from training.datasets.augment import can_augment
from training.datasets.examples import Example, LabelledExample, Record
from training.datasets.fingerprints import Fingerprints, fingerprints_of
from training.datasets.length import Length
from training.datasets.measure import open_encoder
from training.datasets.outliers import features_of
from training.datasets.parallel import Done
from training.datasets.problems import MAX_EXCERPT
from training.datasets.recipe import Effect, Recipe
from training.datasets.shards import Part, records_of
from training.datasets.split import group_hash, label_hash
from training.datasets.steps import steps_of
from training.datasets.texts import has_something_to_learn, kind_of_example, texts_of

SAMPLES = 3
# What is kept of an example in one byte.
TOO_LONG, CUT, AUGMENTABLE, LEARNABLE = 1, 2, 4, 8
_BATCH = 512


class Piece(msgspec.Struct):
    part: Part
    into: str  # the .npz, and beside it the lines
    recipe: Recipe
    model: str  # "": lengths do not matter
    write: bool


class Prepared(msgspec.Struct):
    kinds: list[str]
    effects: list[Effect]  # of these steps
    cuts: list[tuple[int, str, str]]  # the first that were cut: their rows, before and after


def prepare(piece: Piece, done: Done) -> Prepared:
    preparing = _Preparing(piece)
    records = records_of(piece.part)
    at = piece.part.start
    lines = Path(piece.into).with_suffix(".jsonl").open("wb") if piece.write else nullcontext()
    with lines as file:
        while batch := list(islice(records, _BATCH)):
            for example in preparing.take(batch):
                if file is not None:
                    file.write(msgspec.json.encode(example) + b"\n")
            done(batch[-1][0] - at)
            at = batch[-1][0]
    done(piece.part.end - at)
    return preparing.save(Path(piece.into))


class _Preparing:
    def __init__(self, piece: Piece) -> None:
        recipe = piece.recipe
        self._steps = steps_of(recipe)
        self._effects = {name: Effect(name, 0, 0) for name, _ in self._steps}
        self._length = Length(open_encoder(piece.model)[1], recipe.max_tokens) if piece.model else None
        self._cuts_long = recipe.too_long == "cut"
        self._kinds: set[str] = set()
        self._cut: list[tuple[int, str, str]] = []
        self._offsets: list[int] = []
        self._groups: list[int] = []
        self._labels: list[tuple[int, int]] = []  # row and label
        self._flags: list[int] = []
        self._features = [np.empty((0, 2), np.float32)]
        self._prints: list[Fingerprints] = []

    def take(self, batch: list[tuple[int, Record]]) -> list[Example]:
        """What is left of them, as it will be frozen."""
        left: list[Example] = []
        for offset, record in batch:
            self._kinds.add(kind_of_example(record.example))
            example = self._stepped(record.example)
            if example is not None:
                if isinstance(example, LabelledExample) and example.value is None:
                    # Of "" nothing is learnt; no label at all is an answer.
                    labels = [label for label in example.labels if label] if example.labels else [""]
                    self._labels += [(len(self._offsets), label_hash(label)) for label in labels]
                left.append(example)
                self._offsets.append(offset)
                self._groups.append(group_hash(record.group))
        flags = [AUGMENTABLE * can_augment(e) | LEARNABLE * has_something_to_learn(e) for e in left]
        if self._length is not None:
            self._shorten(left, flags, self._length)
        self._flags += flags
        # Of examples as they will be frozen: what is the same once it is cut is a duplicate.
        self._features.append(features_of(left))
        self._prints.append(fingerprints_of(left))
        return left

    def save(self, file: Path) -> Prepared:
        np.savez(
            file,
            offsets=np.array(self._offsets, np.uint64),
            groups=np.array(self._groups, np.uint64),
            flags=np.array(self._flags, np.uint8),
            labels=np.array(self._labels, np.uint64).reshape(-1, 2),
            features=np.concatenate(self._features),
            **vars(Fingerprints.joined(self._prints)),
        )
        return Prepared(sorted(self._kinds), list(self._effects.values()), self._cut)

    def _stepped(self, example: Example) -> Example | None:
        for name, step in self._steps:
            after = step(example)
            if after is example:
                continue
            effect = self._effects[name]
            if after is None:
                effect.dropped += 1
            else:
                effect.changed += 1
            if len(effect.samples) < SAMPLES:
                effect.samples.append(sample_of(example, after))
            if after is None:
                return None
            example = after
        return example

    def _shorten(self, left: list[Example], flags: list[int], length: Length) -> None:
        for place, too_long in enumerate(length.are_too_long(left)):
            cut = length.cut(left[place]) if too_long and self._cuts_long else None
            if cut is not None:
                if len(self._cut) < SAMPLES:
                    before, after = (_excerpts_of_ends(e) for e in (left[place], cut))
                    self._cut.append((len(self._flags) + place, before, after))
                left[place] = cut
                flags[place] |= CUT
            elif too_long:
                flags[place] |= TOO_LONG


def sample_of(before: Example, after: Example | None) -> tuple[str, str]:
    """Where they first differ."""
    if after is None:
        return "\n".join(texts_of(before))[:MAX_EXCERPT], ""
    for old, new in zip(texts_of(before), texts_of(after), strict=False):
        if old != new:
            pairs = zip(old, new, strict=False)
            same = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(old), len(new)))
            begin = max(0, same - 30)
            return old[begin : begin + MAX_EXCERPT], new[begin : begin + MAX_EXCERPT]
    if isinstance(before, LabelledExample) and isinstance(after, LabelledExample):
        return ", ".join(before.labels)[:MAX_EXCERPT], ", ".join(after.labels)[:MAX_EXCERPT]
    return "", ""


def _excerpts_of_ends(example: Example) -> str:
    return "\n".join(texts_of(example))[-MAX_EXCERPT:]
