"""Has parts read by processes of their own (child.py): started, watched, started again, and ended whatever happens.

Knows nothing of what a part holds.
"""

from __future__ import annotations

import selectors
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from training.datasets.child import Answer, Detect, ReadPart
from training.datasets.limits import STALL
from training.datasets.part import PartResult
from training.datasets.problems import DataError
from training.datasets.process import Process
from training.datasets.sources import Detected, Reading

_DETECTION = 60.0  # seconds
_TRIES = 2
_answer = msgspec.json.Decoder(Answer)


class Asked(NamedTuple):
    number: int  # whatever the caller counts by
    ask: ReadPart
    tries: int = 1


class _Child:
    def __init__(self, reads: Collection[Path], writes: Collection[Path]) -> None:
        self.process = Process("training.datasets.child", reads=reads, writes=writes)
        self.ready = False
        self.asked: Asked | None = None

    def answers(self) -> list[Answer] | None:
        """What it has said by now, waiting for something; None when it has died."""
        lines = self.process.answers()
        return None if lines is None else [_answer.decode(line) for line in lines]


def detect(path: Path, name: str, asked: Reading | None = None) -> Detected:
    """`asked`: how it is to be read. Raises DataError `file_too_complex`."""
    with tempfile.TemporaryDirectory(prefix="flywheel-") as scratch:
        return _detect(path, Detect(str(path), name, scratch, asked))


def _detect(path: Path, ask: Detect) -> Detected:
    child, deadline = _Child([path], [Path(ask.scratch)]), time.monotonic() + _DETECTION
    try:
        child.process.ask(ask)
        with selectors.DefaultSelector() as selector:
            selector.register(child.process.stdout, selectors.EVENT_READ)
            while selector.select(max(0.0, deadline - time.monotonic())):
                answers = child.answers()
                if answers is None:
                    break
                for answer in answers:
                    if answer.detected is not None:
                        return answer.detected
        raise DataError("file_too_complex", "The file is too large or too broken to be looked into.")
    finally:
        child.process.end()


def read_parts(
    asks: Iterator[Asked],
    processes: int,
    on_progress: Callable[[int, int], None],
    on_result: Callable[[Asked, PartResult | str], None],
    *,
    reads: Collection[Path],
    writes: Collection[Path],
) -> None:
    """Of files in `reads`, into folders in `writes`.

    `on_result` gets each part's result, or a sentence why its file cannot be read; `on_progress` its number and
    bytes. Whatever either raises ends all processes. Raises DataError `disk_full`, OSError.
    """
    children: list[_Child] = []
    again: list[Asked] = []
    with selectors.DefaultSelector() as selector:

        def next_asked() -> Asked | None:
            return again.pop() if again else next(asks, None)

        def start(asked: Asked) -> None:
            child = _Child(reads, writes)
            children.append(child)
            selector.register(child.process.stdout, selectors.EVENT_READ, child)
            give(child, asked)

        def give(child: _Child, asked: Asked) -> None:
            child.asked = asked
            child.process.ask(asked.ask)

        def lose(child: _Child) -> int:
            selector.unregister(child.process.stdout)
            children.remove(child)
            return child.process.end()

        def died(child: _Child) -> None:
            code, asked = lose(child), child.asked
            if not child.ready:
                raise RuntimeError(f"The process that reads files ended with {code} before it began.")
            if asked is None:
                return
            if asked.tries < _TRIES:
                again.append(asked._replace(tries=asked.tries + 1))
            else:
                on_result(asked, "The program that reads it gave up on it.")

        try:
            while True:
                while len(children) < processes and (asked := next_asked()) is not None:
                    start(asked)
                if not children:
                    return
                for key, _ in selector.select(1.0):
                    child: _Child = key.data
                    answers = child.answers()
                    if answers is None:
                        died(child)
                        continue
                    for answer in answers:
                        _heard(child, answer, on_progress, on_result)
                    if child.ready and child.asked is None:
                        if (asked := next_asked()) is not None:
                            give(child, asked)
                        else:
                            lose(child)
                for child in [each for each in children if time.monotonic() - each.process.heard > STALL]:
                    lose(child)
                    if child.asked is not None:
                        on_result(child.asked, "Reading it takes too long.")
                # A word now and then even when nothing is heard, so that a cancellation is.
                on_progress(-1, 0)
        finally:
            for child in children:
                child.process.end()


def _heard(
    child: _Child,
    answer: Answer,
    on_progress: Callable[[int, int], None],
    on_result: Callable[[Asked, PartResult | str], None],
) -> None:
    child.ready = child.ready or answer.ready
    if child.asked is None:
        return
    if answer.code == "disk_full":
        raise DataError(answer.code, answer.message)
    if answer.code:
        raise OSError(answer.message)
    if answer.done is not None:
        on_progress(child.asked.number, answer.done)
    if answer.result is not None:
        asked, child.asked = child.asked, None
        on_result(asked, answer.result)
