"""Looks at one part of the records: what the report counts and shows of it. Knows nothing of other parts.

Runs in a process of its own. What is small comes back, what there is of every example goes into an .npz file.
"""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np

from inference.formats.errors import ModelFileError
from inference.text.open_model import TextModel, open_text_model
from inference.text.template_host import TemplateError
from training.datasets.conflicts import text_and_answer
from training.datasets.examples import Example, LabelledExample, Record, TranslationExample
from training.datasets.findings import problem_with
from training.datasets.fingerprints import Fingerprints, fingerprints_of
from training.datasets.languages import language_of
from training.datasets.outliers import features_of
from training.datasets.parallel import Done
from training.datasets.personal import find_personal
from training.datasets.problems import MAX_EXCERPT, DataError, Problem
from training.datasets.shards import Part, records_of
from training.datasets.texts import (
    as_read,
    has_something_to_learn,
    kind_of_example,
    names_of_texts,
    own_texts,
    texts_of,
)
from training.datasets.token_preview import lost_text
from training.encoding import Encoded, Encoder

_BATCH = 512
_opening = threading.Lock()  # of threads that want the same vocabulary at once, one opens it


class Piece(msgspec.Struct):
    part: Part
    into: str  # the .npz, and beside it the problems
    files: list[str]
    model: str  # "": no tokens
    max_tokens: int  # 0: any length
    language_of_one_in: int
    most_problems: int  # of each code


class Measured(msgspec.Struct):
    kinds: dict[str, int]
    personal: dict[str, int]
    languages: dict[str, int]
    labels: dict[str, int]
    problems: dict[str, int]
    lost_tokens: int
    labels_first: dict[str, int]  # of each label, the first example that has it, from 0 in this part


def measure(piece: Piece, done: Done) -> Measured:
    measuring = _Measuring(piece)
    records = records_of(piece.part)
    at = piece.part.start
    with Path(piece.into).with_suffix(".jsonl").open("wb") as problems:
        while batch := list(islice(records, _BATCH)):
            for problem in measuring.look_at(batch):
                problems.write(msgspec.json.encode(problem) + b"\n")
            done(batch[-1][0] - at)
            at = batch[-1][0]
    done(piece.part.end - at)
    return measuring.save(Path(piece.into))


class _Measuring:
    def __init__(self, piece: Piece) -> None:
        self._piece = piece
        self._opened = open_encoder(piece.model) if piece.model else None
        names = ("kinds", "personal", "languages", "labels", "problems")
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in names}
        self._lost_tokens = 0
        self._labels_first: dict[str, int] = {}
        self._seen = 0
        self._offsets: list[int] = []
        self._values: list[float] = []
        self._labelled: list[tuple[int, int]] = []
        self._tokens: list[int] = []
        self._trained: list[int] = []
        self._features = [np.empty((0, 2), np.float32)]
        self._prints: list[Fingerprints] = []

    def look_at(self, batch: list[tuple[int, Record]]) -> Iterator[Problem]:
        """The problems that are still to be listed."""
        examples = [record.example for _, record in batch]
        prints = fingerprints_of(examples)
        self._prints.append(prints)
        self._features.append(features_of(examples))
        self._offsets += [offset for offset, _ in batch]
        self._labelled += [text_and_answer(example) for example in examples]
        encodings = (
            self._opened[1].encode_all([as_read(example) for example in examples])
            if self._opened
            else [None] * len(batch)
        )
        for (_, record), exact, encoded in zip(batch, prints.exact.tolist(), encodings, strict=True):
            detect_language = exact % self._piece.language_of_one_in == 0
            problems = [*self._look_at(record, detect_language), *self._token_problems(record, encoded)]
            self._seen += 1
            for problem in problems:
                self._counts["problems"][problem.code] += 1
                if self._counts["problems"][problem.code] <= self._piece.most_problems:
                    yield problem

    def save(self, file: Path) -> Measured:
        prints = Fingerprints.joined(self._prints)
        np.savez(
            file,
            offsets=np.array(self._offsets, np.uint64),
            values=np.array(self._values),
            labelled=np.array(self._labelled, np.uint64).reshape(-1, 2),
            tokens=np.array(self._tokens, np.uint32),
            trained=np.array(self._trained, np.uint32),
            features=np.concatenate(self._features),
            **vars(prints),
        )
        return Measured(**self._counts, lost_tokens=self._lost_tokens, labels_first=self._labels_first)

    def _look_at(self, record: Record, detect_language: bool) -> Iterator[Problem]:
        example = record.example
        self._counts["kinds"][kind_of_example(example)] += 1
        if isinstance(example, LabelledExample):
            for label in example.labels:
                self._counts["labels"][label] += 1
                self._labels_first.setdefault(label, self._seen)
            if example.value is not None:
                self._values.append(example.value)
        texts = texts_of(example)
        whole = "\n\n".join(texts)
        if detect_language:
            self._counts["languages"][_language(example)] += 1
        if find_personal(whole):
            yield from self._personal_problems(record, texts)
        if not has_something_to_learn(example):
            yield problem_with(record, self._piece.files, "nothing_to_learn")

    def _personal_problems(self, record: Record, texts: list[str]) -> Iterator[Problem]:
        """One for each kind, where it is first."""
        seen: set[str] = set()
        for name, text in zip(names_of_texts(record.example), texts, strict=True):
            for found in find_personal(text):
                if found.kind not in seen:
                    seen.add(found.kind)
                    begin = max(0, found.start - 40)
                    excerpt = " ".join(text[begin : begin + MAX_EXCERPT].split())
                    yield problem_with(
                        record, self._piece.files, f"personal_{found.kind}", path=name, excerpt=excerpt
                    )
        self._counts["personal"].update(seen)

    def _token_problems(
        self, record: Record, encoded: Encoded | TemplateError | DataError | None
    ) -> Iterator[Problem]:
        if isinstance(encoded, TemplateError):
            yield problem_with(record, self._piece.files, "template_refuses", reason=str(encoded))
        if not isinstance(encoded, Encoded):
            return
        length, most = len(encoded.ids), self._piece.max_tokens
        self._tokens.append(length)
        self._trained.append(sum(encoded.trained))
        if most and length > most:
            lost = sum(encoded.trained[most:])
            self._lost_tokens += lost
            reason = (
                f"It has {length} tokens where {most} fit; {lost} of those cut off would be learnt. "
                "Shown is how what is cut off begins."
            )
            assert self._opened is not None
            excerpt = lost_text(encoded, self._opened[0].tokenizer, most)
            yield problem_with(record, self._piece.files, "too_long", reason=reason, excerpt=excerpt)


def _language(example: Example) -> str:
    """Of a translation, from which into which."""
    if isinstance(example, TranslationExample):
        return f"{language_of(example.source)} → {language_of(example.target)}"
    return language_of("\n\n".join(own_texts(example)))


def open_encoder(model: str) -> tuple[TextModel, Encoder]:
    """Raises DataError `model_unreadable`."""
    with _opening:
        return _opened(model)


@functools.lru_cache(maxsize=2)
def _opened(model: str) -> tuple[TextModel, Encoder]:
    try:
        opened = open_text_model(Path(model))
    except (ModelFileError, TemplateError) as error:
        raise DataError("model_unreadable", f"The model's vocabulary cannot be read: {error}") from error
    return opened, Encoder(opened.tokenizer, opened.template, opened.end_token_ids)
