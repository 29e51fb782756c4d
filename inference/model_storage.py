"""Where models that came of training lie, and how they come and go. Knows no database, and nothing of what is in them.

Without a shared storage each has a folder of its own under $FLYWHEEL_HOME, which appears by one rename, whole and on
the disk, or not at all. With one it is there (`webapp.core.contents`), and hosts keep what they use of it in `cache()`.
"""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from django.conf import settings

from webapp.core import contents, shared_storage
from webapp.core.content_cache import ContentCache
from webapp.core.downloads import pieces_of
from webapp.core.durable import sync_path
from webapp.core.plain_files import copy_plain

logger = logging.getLogger(__name__)

ADAPTERS, WHOLE_MODELS = "adapters", "trained"
CONTENTS = "models"  # in the shared storage, and in this host's cache
_INCOMING = ".incoming-"
# A transaction that adds a model is over by then: what has no row has none coming.
_ORPHAN_SECONDS = 3600.0


def located(stored: str) -> Path:
    """The folder of a name that `keep` gave out."""
    return Path(settings.FLYWHEEL_HOME) / stored


def cache() -> ContentCache:
    """What this host has of the models in the shared storage."""
    limit = settings.MODEL_CACHE_GB * 10**9
    return ContentCache(CONTENTS, Path(settings.FLYWHEEL_HOME) / "cache" / CONTENTS, limit)


class Kept(NamedTuple):
    path: str  # see `located`
    manifest: str  # in the shared storage; "" without one


def keep(kind: str, name: str, files: Sequence[Path], check: Callable[[Path], None]) -> Kept:
    """A copy of these files in a place of their own, which `check` has seen before anybody else.

    `name` is the model's: nothing else is ever called so. Raises what `check` raises, OSError and StorageError; then
    nothing is left behind, but what a shared storage may have of it for a day.
    """
    parent = located(kind)
    parent.mkdir(parents=True, exist_ok=True)
    own = str(uuid.uuid4())
    incoming = parent / f"{_INCOMING}{own}"
    manifest = ""
    try:
        incoming.mkdir()
        for file in files:
            # Nor a link's target, should one take the file's place only now.
            copy_plain(file.parent, file, incoming / file.name)
            sync_path(incoming / file.name)
        check(incoming)
        if shared_storage.is_shared():
            manifest = publish(name, [incoming / file.name for file in files])
            remove(incoming)
        else:
            sync_path(incoming)
            incoming.rename(parent / own)
            sync_path(parent)
    except BaseException:
        remove(incoming)
        raise
    return Kept(f"{kind}/{own}", manifest)


def publish(name: str, files: Sequence[Path]) -> str:
    """Puts a model's files into the shared storage; the digest of their manifest. Done twice, it costs their hashes.

    Raises StorageError and OSError.
    """
    return contents.publish(CONTENTS, name, files)


class StoredFile(NamedTuple):
    name: str
    size: int  # bytes
    pieces: Iterator[bytes]  # raises StorageError and OSError


def stored_files(kept: Kept) -> list[StoredFile]:
    """What a model consists of, wherever it is kept; nothing is read before it is asked for.

    Raises StorageError and OSError.
    """
    if kept.manifest and shared_storage.is_shared():
        listed = contents.manifest_of(CONTENTS, kept.manifest).files
        return [
            StoredFile(file.name, file.size, contents.read(CONTENTS, kept.manifest, file.name))
            for file in listed
        ]
    files = sorted(located(kept.path).iterdir())
    return [StoredFile(file.name, file.stat().st_size, pieces_of(file)) for file in files]


def remove_kept(kept: Kept) -> None:
    if kept.manifest and shared_storage.is_shared():
        contents.remove(CONTENTS, kept.manifest)
    remove(located(kept.path))


def remove(folder: Path) -> None:
    """Removes a model's folder; what cannot be removed is said in the log and tried again by `remove_orphans`."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.error("%s could not be removed: %s", folder, error)


def remove_orphans(known: Collection[str], manifests: Collection[str], now: datetime) -> None:
    """Removes what no row names: of transactions that were rolled back, and of processes that were killed."""
    if shared_storage.is_shared():
        contents.remove_orphans(CONTENTS, manifests, now)
    for kind in (ADAPTERS, WHOLE_MODELS):
        parent = located(kind)
        for folder in parent.iterdir() if parent.is_dir() else ():
            if f"{kind}/{folder.name}" not in known and _age(folder, now) > _ORPHAN_SECONDS:
                remove(folder)


def _age(folder: Path, now: datetime) -> float:
    try:
        return now.timestamp() - folder.stat().st_mtime
    except OSError:
        return 0.0  # gone meanwhile
