"""How much memory, disk and time a trainer may take, and what ends it that takes more. Knows no job.

Memory is watched and not limited by the kernel: GPUs and threads reserve far more address space than they ever use.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple, Protocol

import psutil
from django.conf import settings
from django.utils.translation import gettext_noop

from training import storage

# Of what the machine or the container has: the rest is for those who answer.
_SHARE = 0.9
_CONTAINER = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
# Rows keep sentences in English; pages translate them, and set the numbers in again.
_TOO_LARGE = gettext_noop(
    "The training used more than the {0} GB of memory it may have; the last checkpoint is kept. Lower the batch size "
    "or the length of examples, or turn gradient checkpointing on."
)
NO_ROOM = gettext_noop(
    "The disk is full, or cannot be written. Make room, and resume it: the last checkpoint is kept."
)
_TOO_LONG = gettext_noop(
    "The training took more than the {0} hours it may. Resume it, and it goes on from what is saved for as long again."
)


class Passed(NamedTuple):
    """A failure. `has_time`: it may save itself first; what takes ever more memory may not."""

    code: str
    message: str
    has_time: bool


class Watched(Protocol):
    def memory(self) -> int: ...  # bytes


class TrainerLimits:
    """Of one attempt, from now on."""

    def __init__(self) -> None:
        self._memory = memory_limit()
        self._hours: int = settings.TRAINING_MAX_HOURS
        self._ends_at = time.monotonic() + self._hours * 3600 if self._hours else float("inf")

    def passed(self, trainer: Watched) -> Passed | None:
        if storage.is_short():
            return Passed("disk", NO_ROOM, has_time=False)
        if trainer.memory() > self._memory:
            return Passed("oom", _TOO_LARGE.format(f"{self._memory / 2**30:.0f}"), has_time=False)
        if time.monotonic() > self._ends_at:
            return Passed("time_limit", _TOO_LONG.format(self._hours), has_time=True)
        return None


def memory_limit() -> int:
    """Bytes of all processes of one job together."""
    if settings.TRAINING_MEMORY_GB:
        return int(settings.TRAINING_MEMORY_GB * 2**30)
    return int(_SHARE * min(psutil.virtual_memory().total, *map(_read_limit, _CONTAINER)))


def _read_limit(file: Path) -> float:
    try:
        return float(file.read_text())
    except (OSError, ValueError):  # not in a container, or one without a limit: "max"
        return float("inf")
