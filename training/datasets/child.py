"""A process that reads parts for another: `python -m training.datasets.child`, asked on stdin, answering on stdout.

What a broken file does to a library, it does to this process alone: its memory is limited, whoever asked watches how
long it is silent, and it ends when they do. Knows no Django and no torch.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from pathlib import Path
from queue import SimpleQueue

import msgspec

from training.datasets.limits import CHILD_MEMORY
from training.datasets.looking import look_into
from training.datasets.part import Part, PartResult, read_part
from training.datasets.problems import DataError
from training.datasets.sources import Detected


class ReadPart(msgspec.Struct, tag="part"):
    part: Part
    folder: str  # where to write it


class Detect(msgspec.Struct, tag="detect"):
    path: str
    name: str


class Answer(msgspec.Struct, omit_defaults=True):
    """One of these, a line each; `done` as often as there is something to say."""

    ready: bool = False
    done: int | None = None
    result: PartResult | None = None
    detected: Detected | None = None
    code: str = ""
    message: str = ""


Ask = ReadPart | Detect


def main() -> None:
    _limit_memory()
    # Whatever a library prints goes to the log, not among the answers.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    asked: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(asked,), daemon=True).start()

    def say(answer: Answer) -> None:
        answers.write(msgspec.json.encode(answer) + b"\n")

    say(Answer(ready=True))
    while line := asked.get():
        try:
            say(_answer(msgspec.json.decode(line, type=Ask), say))
        except DataError as error:
            say(Answer(code=error.code, message=error.message))
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            say(Answer(code="disk_full" if full else "cannot_write", message=error.strerror or str(error)))


def _listen(asked: SimpleQueue[bytes]) -> None:
    """Ends the process when whoever asks is gone, in the midst of whatever it does."""
    for line in sys.stdin.buffer:
        asked.put(line)
    os._exit(0)


def _answer(ask: Ask, say: object) -> Answer:
    assert callable(say)
    if isinstance(ask, Detect):
        return Answer(detected=look_into(Path(ask.path), ask.name))
    return Answer(result=read_part(ask.part, Path(ask.folder), lambda done: say(Answer(done=done))))


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = CHILD_MEMORY if hard == resource.RLIM_INFINITY else min(CHILD_MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


if __name__ == "__main__":
    main()
