"""A process that reads parts for another: `python -m training.datasets.child`, asked on stdin, answering on stdout.

What a broken file does to a library, it does to this process alone. Knows no Django and no torch.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from training.datasets.aside import disk_full
from training.datasets.looking import look_into
from training.datasets.part import Part, PartResult, read_part
from training.datasets.problems import DataError
from training.datasets.process import Say, serve
from training.datasets.sources import Detected, Reading


class ReadPart(msgspec.Struct, tag="part"):
    part: Part
    folder: str  # where to write it


class Detect(msgspec.Struct, tag="detect"):
    path: str
    name: str
    scratch: str  # where to unpack what is in an archive
    asked: Reading | None = None  # how it is to be read


class Answer(msgspec.Struct, omit_defaults=True):
    """One of these, a line each; `done` as often as there is something to say."""

    ready: bool = False
    done: int | None = None
    result: PartResult | None = None
    detected: Detected | None = None
    code: str = ""
    message: str = ""


Ask = ReadPart | Detect


def _answer(line: bytes, say: Say) -> None:
    try:
        ask = msgspec.json.decode(line, type=Ask)
        if isinstance(ask, Detect):
            looked = look_into(Path(ask.path), ask.name, asked=ask.asked, scratch=Path(ask.scratch))
            say(Answer(detected=looked))
        else:
            result = read_part(ask.part, Path(ask.folder), lambda done: say(Answer(done=done)))
            say(Answer(result=result))
    except DataError as error:
        say(Answer(code=error.code, message=error.message))
    except OSError as error:
        full = disk_full(error)
        message = full.message if full else error.strerror or str(error)
        say(Answer(code="disk_full" if full else "cannot_write", message=message))


if __name__ == "__main__":
    serve(_answer, greeting=Answer(ready=True))
