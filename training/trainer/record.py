"""What a job says of itself while it runs: metrics.jsonl, a line each time, and status.json, where it is now.

Whoever supervises it reads these and nothing else. Knows nothing of training.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

State = Literal["loading", "reading", "training", "succeeded", "stopped", "failed"]
# What takes a while beside the steps.
Doing = Literal["", "evaluating", "asking", "saving", "finishing"]


class Status(msgspec.Struct):
    state: State
    doing: Doing = ""  # while it is training: what else than a step
    step: int = 0
    steps: int = 0
    best_step: int = 0
    best_validation_loss: float | None = None
    base_validation_loss: float | None = None
    result: str = ""  # the folder of what was learnt, once it succeeded
    error: str = ""  # a code
    message: str = ""  # a sentence
    pid: int = 0
    time: float = 0.0  # when this was written


class Record:
    """Of the first process; the others write nothing, unless they fail."""

    def __init__(self, folder: Path, *, writes: bool) -> None:
        self._folder, self._writes = folder, writes
        self.status = Status("loading", pid=os.getpid())
        self._written = 0.0

    def line(self, type: str, **values: Any) -> None:
        """One line of metrics.jsonl: its type, and when."""
        if self._writes:
            with (self._folder / "metrics.jsonl").open("ab") as file:
                file.write(msgspec.json.encode({"type": type, "time": time.time(), **values}) + b"\n")

    def state(self, state: State, **changes: Any) -> None:
        self.status.state = state
        for name, value in changes.items():
            setattr(self.status, name, value)
        self.beat(hurried=True)

    @contextmanager
    def doing(self, what: Doing) -> Iterator[None]:
        before, self.status.doing = self.status.doing, what
        self.beat(hurried=True)
        yield
        self.status.doing = before
        self.beat(hurried=True)

    def failed(self, code: str, message: str) -> None:
        """Of any process: the first one may not know why another ended. Whoever only lost the others, which is an error
        that has no code of its own, does not write over what one of them said of it."""
        if code == "internal" and self._is_told():
            return
        self._writes = True
        self.state("failed", error=code, message=message)

    def _is_told(self) -> bool:
        try:
            said = msgspec.json.decode((self._folder / "status.json").read_bytes(), type=Status)
        except (OSError, msgspec.DecodeError):
            return False
        return said.state == "failed"

    def beat(self, *, hurried: bool = False) -> None:
        """Says that it is alive, about every second."""
        now = time.time()
        if self._writes and (hurried or now - self._written > 1):
            self._written = self.status.time = now
            aside = self._folder / f".status.{os.getpid()}"
            aside.write_bytes(msgspec.json.encode(self.status))
            aside.replace(self._folder / "status.json")
