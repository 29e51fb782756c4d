"""Where models that came of training lie, and how they come and go. Knows no database, and nothing of what is in them.

Each has a folder of its own under $FLYWHEEL_HOME, which appears by one rename, whole and on the disk, or not at all.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from django.conf import settings

logger = logging.getLogger(__name__)

ADAPTERS, WHOLE_MODELS = "adapters", "trained"
_INCOMING = ".incoming-"
# A transaction that adds a model is over by then: what has no row has none coming.
_ORPHAN_SECONDS = 3600.0


def located(stored: str) -> Path:
    """The folder of a name that `keep` gave out."""
    return Path(settings.FLYWHEEL_HOME) / stored


def keep(kind: str, files: Sequence[Path], check: Callable[[Path], None]) -> str:
    """A copy of these files in a folder of their own, which `check` has seen before anybody else; its name.

    Raises what `check` raises, and OSError; then nothing is left behind.
    """
    parent = located(kind)
    parent.mkdir(parents=True, exist_ok=True)
    name = str(uuid.uuid4())
    incoming = parent / f"{_INCOMING}{name}"
    try:
        incoming.mkdir()
        for file in files:
            shutil.copyfile(file, incoming / file.name)
            _sync(incoming / file.name)
        check(incoming)
        _sync(incoming)
        incoming.rename(parent / name)
        _sync(parent)
    except BaseException:
        remove(incoming)
        raise
    return f"{kind}/{name}"


def remove(folder: Path) -> None:
    """Removes a model's folder; what cannot be removed is said in the log and tried again by `remove_orphans`."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.error("%s could not be removed: %s", folder, error)


def remove_orphans(known: Collection[str]) -> None:
    """Removes folders that no row names: of transactions that were rolled back, and of processes that were killed."""
    for kind in (ADAPTERS, WHOLE_MODELS):
        parent = located(kind)
        for folder in parent.iterdir() if parent.is_dir() else ():
            if f"{kind}/{folder.name}" not in known and _age(folder) > _ORPHAN_SECONDS:
                remove(folder)


def _age(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return 0.0  # gone meanwhile


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
