"""By what a host knows its own dead workers: a file for each lease, which the process that has it holds locked.

The kernel lets go of a lock with the process, however that ends, and no other process is ever mistaken for it: names of
hosts and numbers of processes come again.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Collection
from pathlib import Path
from uuid import UUID, uuid4

from django.conf import settings


class LifeSign:
    """Of one lease, for as long as this process lives, or until `end`. Raises OSError."""

    def __init__(self) -> None:
        self.id = uuid4()
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True)
        self._path, new = folder / str(self.id), folder / f".{self.id}"
        self._file = new.open("wb")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        new.rename(self._path)  # nobody sees it before it is locked

    def end(self) -> None:
        self._path.unlink(missing_ok=True)
        self._file.close()


def dead() -> list[UUID]:
    """The leases of processes that ended without a word. Another host's are not here, and never among them."""
    found = []
    for path in _folder().glob("[!.]*"):
        # Gone meanwhile, or held, or nobody's lease.
        with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            found.append(UUID(path.name))
    return found


def forget(ids: Collection[UUID]) -> None:
    for id_ in ids:
        (_folder() / str(id_)).unlink(missing_ok=True)


def _folder() -> Path:
    folder: Path = settings.FLYWHEEL_HOME / "run" / "leases"
    return folder
