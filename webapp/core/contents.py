"""Files that belong together, in the shared storage, named by the SHA-256 of their manifest. Knows not what they are.

    <kind>/<digest>/<file>...      then, last of all,     <kind>/<digest>.json

Whoever knows the digest, from a database row, can prove every byte. What has no manifest is not there.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from webapp.core import shared_storage
from webapp.core.shared_storage import StorageError

logger = logging.getLogger(__name__)
# What is published has been, and is named by a row, by then.
_ORPHAN_AFTER = timedelta(days=1)
# Of a manifest, a few hundred bytes for each file: whoever writes to the storage must not fill our memory.
_LONGEST = 2**20


class FileEntry(msgspec.Struct, frozen=True):
    name: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    name: str  # what these files are to the site; of what must not be shared a name nothing else has
    files: list[FileEntry]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def publish(kind: str, name: str, files: Sequence[Path]) -> str:
    """Puts these files there, each under its own name; the manifest's digest. Raises StorageError and OSError."""
    entries = [FileEntry(file.name, file.stat().st_size, _sha256(file)) for file in files]
    manifest = msgspec.json.encode(Manifest(name, sorted(entries, key=lambda entry: entry.name)))
    digest = hashlib.sha256(manifest).hexdigest()
    if not _is_there(kind, digest, manifest):
        for file in files:
            logger.info("%s (%.1f MB) goes to the shared storage", file.name, file.stat().st_size / 1e6)
            shared_storage.write(f"{kind}/{digest}/{file.name}", file)
    # Also where it was there: it is no older than the row to come, and no orphan.
    shared_storage.write(f"{kind}/{digest}.json", manifest)
    return digest


def manifest_of(kind: str, digest: str) -> Manifest:
    """Raises StorageError, also where it is not the one of that digest."""
    data = shared_storage.read_whole(f"{kind}/{digest}.json", _LONGEST)
    if hashlib.sha256(data).hexdigest() != digest:
        raise StorageError(f"{kind}/{digest}.json in the shared storage is not the file that was put there.")
    manifest = msgspec.json.decode(data, type=Manifest)
    for file in manifest.files:
        if file.name in ("", "..") or Path(file.name).name != file.name:
            raise StorageError(f"{file.name!r} in the shared storage cannot be a file's name.")
    return manifest


def read(kind: str, digest: str, name: str) -> Iterator[bytes]:
    """One of the files that the manifest names, in pieces. Raises StorageError."""
    return shared_storage.read(f"{kind}/{digest}/{name}")


def remove(kind: str, digest: str) -> None:
    """What cannot be removed is said in the log, and tried again by `remove_orphans`."""
    try:
        # First what says that it is there.
        shared_storage.delete(f"{kind}/{digest}.json")
        shared_storage.delete_folder(f"{kind}/{digest}")
    except StorageError as error:
        logger.error("%s", error)


def remove_orphans(kind: str, known: Collection[str], now: datetime) -> None:
    """Removes what no row names: of transactions that were rolled back, and of processes that were killed."""
    try:
        folders, files = shared_storage.listed(kind)
        for digest in {*folders, *(name.removesuffix(".json") for name in files)} - set(known):
            if now - _written_at(kind, digest, now) > _ORPHAN_AFTER:
                remove(kind, digest)
    except StorageError as error:
        logger.error("%s", error)


def _is_there(kind: str, digest: str, manifest: bytes) -> bool:
    name = f"{kind}/{digest}.json"
    return shared_storage.exists(name) and next(shared_storage.read(name), b"") == manifest


def _written_at(kind: str, digest: str, now: datetime) -> datetime:
    """The last of it: an upload may take hours."""
    names = [f"{kind}/{digest}/{name}" for name in shared_storage.listed(f"{kind}/{digest}")[1]]
    if shared_storage.exists(f"{kind}/{digest}.json"):
        names.append(f"{kind}/{digest}.json")
    return max(map(shared_storage.written_at, names), default=now)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
