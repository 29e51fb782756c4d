"""How a backup keeps out of the way: the lowest priority, and no more at once than the disk takes in passing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import psutil

_MEGABYTE = 2**20
CHUNK = 16 * _MEGABYTE
# Bytes a second, at most: 1 GB in 14 s, and half of an ordinary disk is left.
RATE = 80 * _MEGABYTE


def yield_to_everybody() -> None:
    """This process, for the rest of its life."""
    os.nice(19)
    # Not every system, and not every disk's scheduler, knows of it.
    with contextlib.suppress(AttributeError, OSError, psutil.Error):
        psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)


class Pace:
    """Counts bytes and sleeps where there are too many of them; tells `told` how many there were."""

    def __init__(self, told: Callable[[int], None] = lambda done: None) -> None:
        self._told, self.done, self._began, self._since = told, 0, time.monotonic(), 0

    def moved(self, count: int) -> None:
        self.done += count
        self._since += count
        self._told(self.done)
        early = self._since / RATE - (time.monotonic() - self._began)
        if early > 0:
            time.sleep(early)
        if self._since > RATE:
            # What was slower than it might have been is not made up for by a burst.
            self._began, self._since = time.monotonic(), 0


def copy_file(source: Path, target: Path, pace: Pace) -> tuple[int, str]:
    """Copies what is in it by now, onto the disk; its size and SHA-256."""
    with source.open("rb") as incoming, create(target) as outgoing:
        digest, size, unsynced = hashlib.sha256(), 0, 0
        while chunk := incoming.read(_MEGABYTE):
            outgoing.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            unsynced += len(chunk)
            if unsynced >= CHUNK:
                unsynced = 0
                sync(outgoing)
            pace.moved(len(chunk))
        sync(outgoing)
    return size, digest.hexdigest()


def digest_file(path: Path, pace: Pace) -> tuple[int, str]:
    """Its size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_MEGABYTE):
            digest.update(chunk)
            size += len(chunk)
            pace.moved(len(chunk))
    return size, digest.hexdigest()


def create(path: Path) -> BinaryIO:
    """A new file, in folders that are made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("xb")


def sync(file: BinaryIO) -> None:
    file.flush()
    os.fdatasync(file.fileno())
