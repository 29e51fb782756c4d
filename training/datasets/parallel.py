"""Runs one function over many pieces of work, in processes of its own where that is worth it.

Knows nothing of the work but that pieces and results are msgspec structs: they travel as JSON lines, and what is big
travels as files. A child imports the function's module and nothing else of ours, so neither Django nor torch. It says
after every batch how far it is, so it ends by a broken pipe soon after its parent did.
"""

from __future__ import annotations

import importlib
import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, get_type_hints

import msgspec

from training.datasets.aside import disk_full
from training.datasets.problems import DataError
from training.datasets.progress import Progress

Piece = TypeVar("Piece", bound=msgspec.Struct, contravariant=True)
Result = TypeVar("Result", bound=msgspec.Struct, covariant=True)
Done = Callable[[int], None]

_ROOT = Path(__file__).resolve().parents[2]


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
) -> list[Result]:
    """The result of each piece, in order. With fewer than two processes or pieces, all of it happens here.

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
    hints = get_type_hints(work)
    decoder = msgspec.json.Decoder(hints["return"])
    results: dict[int, Result] = {}
    waiting = iter(enumerate(pieces))
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(min(processes, len(pieces))):
            child = stack.enter_context(_child(f"{work.__module__}:{work.__name__}"))  # type: ignore[attr-defined]
            selector.register(child.stdout, selectors.EVENT_READ, [child, _ask(child, waiting)])  # type: ignore[arg-type]
        while len(results) < len(pieces):
            for key, _ in selector.select():
                child, index = key.data
                said = _hear(child)
                advance(said.done)
                if bytes(said.result):
                    results[index] = decoder.decode(said.result)
                    key.data[1] = _ask(child, waiting)
                    if key.data[1] is None:
                        selector.unregister(key.fileobj)
    return [results[index] for index in range(len(pieces))]


@contextmanager
def _child(name: str) -> Iterator[subprocess.Popen[bytes]]:
    # One thread each: the processes are what shares out the cores.
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "RAYON_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    child = subprocess.Popen(
        [sys.executable, "-m", __name__, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        env=environment,
    )
    try:
        yield child
    finally:
        child.kill()
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            pipe.close()
        child.wait()


def _ask(child: subprocess.Popen[bytes], waiting: Iterator[tuple[int, Any]]) -> int | None:
    """Gives the child the next piece, or none; which it is."""
    index, piece = next(waiting, (None, None))
    assert child.stdin is not None
    if index is None:
        child.stdin.close()
        return None
    try:
        child.stdin.write(msgspec.json.encode(piece) + b"\n")
    except BrokenPipeError:
        raise _lost(child) from None
    return index


def _hear(child: subprocess.Popen[bytes]) -> _Said:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line.endswith(b"\n"):
        raise _lost(child)
    said = msgspec.json.decode(line, type=_Said)
    if said.code:
        raise DataError(said.code, said.message)
    return said


def _lost(child: subprocess.Popen[bytes]) -> DataError:
    return DataError(
        "worker_lost", f"A process that worked on the data ended with exit status {child.wait()}."
    )


def _serve(name: str) -> None:
    module, function = name.split(":")
    work: Work[Any, Any] = getattr(importlib.import_module(module), function)
    piece_type = next(iter(get_type_hints(work).values()))
    # What the work prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def say(said: _Said) -> None:
        answers.write(msgspec.json.encode(said) + b"\n")

    for line in sys.stdin.buffer:
        try:
            result = work(msgspec.json.decode(line, type=piece_type), lambda amount: say(_Said(done=amount)))
            say(_Said(result=msgspec.Raw(msgspec.json.encode(result))))
        except (DataError, OSError) as error:
            reason = error if isinstance(error, DataError) else disk_full(error)
            if reason is None:
                raise
            say(_Said(code=reason.code, message=reason.message))


if __name__ == "__main__":
    _serve(sys.argv[1])
