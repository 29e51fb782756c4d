"""The examples of a split as token ids, and which of them make up a step. Knows nothing of models or torch modules.

What a step holds is a function of (seed, step): it does not depend on packing, on the number of processes, or on
where a job was interrupted.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise
from typing import Self

import torch

from training.datasets.examples import DocumentExample, Example
from training.encoding import Encoder

_ENCODED_AT_ONCE = 64


@dataclass(frozen=True)
class Span:
    """One example, or a piece of a document: where in the split's tokens it is."""

    start: int
    end: int
    trained: int  # tokens that are learnt; of a labelled text 1, its label
    line: int  # of the split's file, from 1

    @property
    def length(self) -> int:
        return self.end - self.start


class TokenizedSplit:
    """All tokens of a split, one example after the other."""

    def __init__(self) -> None:
        self._ids, self._trained = array("i"), bytearray()
        self._examples: list[tuple[int, int, bool]] = []  # start, line, whether it may be divided
        self.refused: list[tuple[int, str]] = []  # line and why

    def filled(
        self, numbered: Iterable[tuple[int, Example]], encoder: Encoder, beat: Callable[[], None]
    ) -> Self:
        """With these examples and their lines. `beat` is called often, and may raise."""
        left = iter(numbered)
        while some := list(islice(left, _ENCODED_AT_ONCE)):
            self._add(some, encoder)
            beat()
        return self

    def _add(self, examples: list[tuple[int, Example]], encoder: Encoder) -> None:
        encoded = encoder.encode_all([example for _, example in examples])
        for (line, example), result in zip(examples, encoded, strict=True):
            if isinstance(result, Exception):
                self.refused.append((line, str(result)))
                continue
            self._examples.append((len(self._ids), line, isinstance(example, DocumentExample)))
            self._ids.extend(result.ids)
            self._trained.extend(result.trained)

    @property
    def lengths(self) -> list[int]:
        starts = [start for start, _, _ in self._examples]
        return [end - start for start, end in pairwise([*starts, len(self._ids)])]

    def spans(self, max_length: int) -> list[Span]:
        """Longer examples are cut, documents divided; those without a trained token are left out."""
        spans = []
        for (start, line, divisible), length in zip(self._examples, self.lengths, strict=True):
            end = start + length
            for piece in range(start, end if divisible else start + 1, max_length):
                stop = min(piece + max_length, end)
                # The first token is predicted by nothing.
                if trained := sum(self._trained[piece + 1 : stop]):
                    spans.append(Span(piece, stop, trained, line))
        return spans

    def beyond(self, max_length: int) -> int:
        """How many examples are left out since all that is learnt of them comes later than that."""
        return sum(
            not divisible
            and not any(self._trained[start + 1 : start + min(length, max_length)])
            and any(self._trained[start + max_length : start + length])
            for (start, _, divisible), length in zip(self._examples, self.lengths, strict=True)
        )

    def alike(self, spans: list[Span]) -> int:
        """How many tokens all of them begin with, before the first that is learnt."""
        begins = []
        for span in spans:
            learnt = self._trained.find(1, span.start + 1, span.end)
            end = learnt if learnt >= 0 else span.end
            begins.append(self._ids[span.start : end - 1].tolist())
        first, last = min(begins), max(begins)  # what these two share, all between them do
        differing = (n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
        return next(differing, min(len(first), len(last)))

    def batch(self, spans: list[Span], device: torch.device) -> Batch:
        """The tokens of several spans as one row."""
        ids, positions, lengths = self._row(spans)
        trained = b"".join(b"\0" + self._trained[span.start + 1 : span.end] for span in spans)
        targets = torch.frombuffer(bytearray(trained), dtype=torch.bool).nonzero().squeeze(1)
        return Batch(
            ids=ids.to(device),
            positions=positions.to(device),
            lengths=lengths,
            rows=(targets - 1).to(device),
            targets=ids[targets].to(device),
            lines=[span.line for span in spans],
        )

    def _row(self, spans: list[Span]) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """Their ids one after the other, the position of each in its span, and the spans' lengths."""
        ids = torch.cat([torch.tensor(self._ids[span.start : span.end]) for span in spans]).long()
        lengths = [span.length for span in spans]
        return ids, torch.cat([torch.arange(length) for length in lengths]), lengths


@dataclass(frozen=True)
class Batch:
    """What one forward pass takes."""

    ids: torch.Tensor  # int64 [tokens]
    positions: torch.Tensor  # int64 [tokens], from 0 in each sequence
    lengths: list[int]
    rows: torch.Tensor  # int64 [trained]: the token before each that is learnt; of a labelled text its last
    targets: torch.Tensor  # int64 [trained]: the ids that are learnt; of labelled texts see LabelledSplit
    lines: list[int]
    prefix: int = 0  # rows before the first sequence that each goes on from, not in `lengths`: see prefix.py


class Order:
    """Which examples are in which step: every one once an epoch, in an order drawn from (seed, epoch)."""

    def __init__(self, spans: list[Span], batch_size: int, seed: int) -> None:
        self._spans, self._size, self._seed = spans, batch_size, seed
        self.steps_an_epoch = -(-len(spans) // batch_size)
        self._epoch = -1
        self._shuffled: list[Span] = []

    def step(self, step: int) -> list[Span]:
        """Steps count from 0."""
        epoch, place = divmod(step, self.steps_an_epoch)
        if epoch != self._epoch:
            self._shuffled = list(self._spans)
            random.Random(f"{self._seed}:{epoch}").shuffle(self._shuffled)  # noqa: S311 - an order, no secret
            self._epoch = epoch
        return self._shuffled[place * self._size : (place + 1) * self._size]


def packed(
    spans: list[Span], microbatch_tokens: int, least: int, *, packing: bool = True, alike: int = 0
) -> list[list[Span]]:
    """Forward passes of at most so many tokens (best fit, the longest first), `least` of them where there is enough.

    `alike`: tokens that all begin with, which a pass has once.
    """
    if not packing:
        return [[span] for span in spans]
    passes: list[list[Span]] = []
    room: list[int] = []
    for span in sorted(spans, key=lambda span: (-span.length, span.start)):
        needed = span.length - alike
        fitting = [n for n, left in enumerate(room) if left >= needed]
        if fitting:
            best = min(fitting, key=lambda n: room[n])
            passes[best].append(span)
            room[best] -= needed
        else:
            passes.append([span])
            room.append(microbatch_tokens - alike - needed)
    while len(passes) < least and (largest := max(passes, key=len)) and len(largest) > 1:
        passes.remove(largest)
        passes += [largest[::2], largest[1::2]]
    return passes


def shared(passes: list[list[Span]], processes: int) -> list[list[list[Span]]]:
    """The passes of each process: about the same number of tokens for all."""
    shares: list[list[list[Span]]] = [[] for _ in range(processes)]
    loads = [0] * processes
    for one in sorted(passes, key=lambda spans: -sum(span.length for span in spans)):
        least = loads.index(min(loads))
        shares[least].append(one)
        loads[least] += sum(span.length for span in one)
    return shares


def chunks(spans: list[Span], tokens: int) -> Iterable[list[Span]]:
    """Neighbours together, at most so many tokens: for what is only read."""
    ordered = sorted(spans, key=lambda span: (span.length, span.start))
    ends = list(accumulate(span.length for span in ordered))
    start = 0
    while start < len(ordered):
        before = ends[start - 1] if start else 0
        stop = start + 1
        while stop < len(ordered) and ends[stop] - before <= tokens:
            stop += 1
        yield ordered[start:stop]
        start = stop
