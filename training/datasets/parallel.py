"""Runs one function over many pieces of work, in processes of its own where that is worth it.

Knows nothing of the work but that pieces and results are msgspec structs: they travel as JSON lines, and what is big
travels as files. A process imports the function's module and nothing else of ours, so neither Django nor torch.
"""

from __future__ import annotations

import importlib
import selectors
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, get_type_hints

import msgspec

from training.datasets.aside import disk_full
from training.datasets.problems import DataError
from training.datasets.process import Process, Say, serve
from training.datasets.progress import Progress

Piece = TypeVar("Piece", bound=msgspec.Struct, contravariant=True)
Result = TypeVar("Result", bound=msgspec.Struct, covariant=True)
Done = Callable[[int], None]


class Work(Protocol[Piece, Result]):
    """A function at the top of a module: `work(piece, done) -> result`, which calls `done(amount)` now and then."""

    def __call__(self, piece: Piece, done: Done, /) -> Result: ...


class _Said(msgspec.Struct, omit_defaults=True):
    """A line from a child: an amount done, the result of its piece, or why there is none."""

    done: int = 0
    result: msgspec.Raw = msgspec.Raw(b"")
    code: str = ""
    message: str = ""


def run_all(
    work: Work[Piece, Result],
    pieces: Sequence[Piece],
    *,
    stage: str,
    total: int,
    processes: int,
    progress: Progress,
    reads: Collection[Path] = (),
    writes: Collection[Path] = (),
) -> list[Result]:
    """The result of each piece, in order. With fewer than two processes or pieces, all of it happens here; otherwise
    the work has no files but those in `reads`, and in `writes` those it makes.

    Raises what the work raises as DataError, and what `progress` raises, after which no child is left.
    """
    finished = 0

    def advance(amount: int) -> None:
        nonlocal finished
        finished += amount
        progress(stage, finished, total)

    progress(stage, 0, total)
    if processes < 2 or len(pieces) < 2:
        return [work(piece, advance) for piece in pieces]
    decoder = msgspec.json.Decoder(get_type_hints(work)["return"])
    results: dict[int, Result] = {}
    waiting = iter(enumerate(pieces))
    children: list[_Child] = []
    with selectors.DefaultSelector() as selector:
        try:
            for _ in range(min(processes, len(pieces))):
                children.append(child := _Child(f"{work.__module__}:{work.__name__}", reads, writes))  # type: ignore[attr-defined]
                selector.register(child.process.stdout, selectors.EVENT_READ, child)
                child.give(next(waiting))
            while len(results) < len(pieces):
                ready = selector.select(1.0)
                if not ready:
                    progress(stage, finished, total)  # which may be a cancellation
                for key, _ in ready:
                    child = key.data
                    for said in child.hear():
                        advance(said.done)
                        if not bytes(said.result):
                            continue
                        results[child.index] = decoder.decode(said.result)
                        if (following := next(waiting, None)) is not None:
                            child.give(following)
                        else:
                            selector.unregister(child.process.stdout)
        finally:
            for child in children:
                child.process.end()
    return [results[index] for index in range(len(pieces))]


class _Child:
    def __init__(self, work: str, reads: Collection[Path], writes: Collection[Path]) -> None:
        self.process = Process(__name__, work, reads=reads, writes=writes)
        self.index = -1  # of the piece it works on

    def give(self, piece: tuple[int, msgspec.Struct]) -> None:
        self.index = piece[0]
        self.process.ask(piece[1])

    def hear(self) -> list[_Said]:
        """Raises DataError where it has said why there is no result, or died."""
        lines = self.process.answers()
        if lines is None:
            status = self.process.end()
            raise DataError("worker_lost", f"A process that worked on the data ended with status {status}.")
        heard = [msgspec.json.decode(line, type=_Said) for line in lines]
        for said in heard:
            if said.code:
                raise DataError(said.code, said.message)
        return heard


def _serve(name: str) -> None:
    module, function = name.split(":")
    work: Work[Any, Any] = getattr(importlib.import_module(module), function)
    piece_type = next(iter(get_type_hints(work).values()))

    def answer(line: bytes, say: Say) -> None:
        try:
            result = work(msgspec.json.decode(line, type=piece_type), lambda amount: say(_Said(done=amount)))
            say(_Said(result=msgspec.Raw(msgspec.json.encode(result))))
        except (DataError, OSError) as error:
            reason = error if isinstance(error, DataError) else disk_full(error)
            if reason is None:
                raise
            say(_Said(code=reason.code, message=reason.message))

    serve(answer)


if __name__ == "__main__":
    _serve(sys.argv[1])
