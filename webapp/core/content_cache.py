"""What this host has of the shared storage: fetched when it is asked for, proved byte by byte, and bounded.

Any number of processes share the folder. There is a lock for each digest: who uses it holds it shared, so that it
stays; who fetches or removes it, alone. Locks of processes that were killed are gone with them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from webapp.core import contents, shared_storage
from webapp.core.durable import sync_path
from webapp.core.shared_storage import StorageError

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_SAY_EVERY = 5.0  # seconds, while something is fetched
# Stays free on the disk beside what is fetched: logs, sockets and databases need some.
_SPARE_BYTES = 2**29
# So much longer than a try in vain took it is not tried again: a damaged file of gigabytes would be read on and on.
_REST_FACTOR = 5.0
_resting: dict[Path, tuple[float, str]] = {}  # until when, and why
_FETCHING, _GOING = ".fetching", ".going"  # -DIGEST-BYTES


class Stopped(StorageError):
    """Whoever asked wants it no more."""


class Held:
    """Something that is here, and stays until it is released."""

    def __init__(self, folder: Path, lock: IO[bytes] | None = None) -> None:
        self.folder, self._lock = folder, lock

    def release(self) -> None:
        """Any number of times."""
        if self._lock is not None:
            lock, self._lock = self._lock, None
            with contextlib.suppress(OSError):
                _note_use(lock)
            lock.close()

    def __enter__(self) -> Path:
        return self.folder

    def __exit__(self, *_: object) -> None:
        self.release()


class ContentCache:
    def __init__(self, kind: str, folder: Path, limit: int) -> None:
        """`limit` in bytes, of all of it together."""
        self._kind, self._folder, self._limit = kind, folder, limit

    def path(self, digest: str) -> Path:
        """Where it is, once it is held."""
        return self._folder / digest

    def hold(self, digest: str, is_unwanted: Callable[[], bool] = lambda: False) -> Held:
        """Fetches what is not here, which takes its time, and is broken off once it `is_unwanted`.

        Raises StorageError: what is there is not what was put there, there is no room for it, or the storage or this
        disk does not answer. Nothing is left of it then.
        """
        try:
            (self._folder / "locks").mkdir(parents=True, exist_ok=True)
            while (held := self._held(digest)) is None:
                lock = self._lock(digest, fcntl.LOCK_EX)
                if lock is None:
                    _stop_if(is_unwanted)
                    time.sleep(_POLL_SECONDS)
                    continue
                with lock:
                    if not self.path(digest).is_dir():
                        self._fetch_or_rest(digest, is_unwanted)
            return held
        except OSError as error:
            raise StorageError(f"{self._folder} cannot be used: {error.strerror}.") from error

    def forget(self, is_known: Callable[[str], bool]) -> None:
        """Removes what is not known any more, once nobody uses it, and what killed processes left. Raises OSError."""
        if self._folder.is_dir():
            with self._room():
                for digest in self._digests():
                    if not is_known(digest):
                        self._remove(digest)

    # --- locks ----------------------------------------------------------------------------------------------
    def _lock(self, name: str, kind: int) -> IO[bytes] | None:
        """None where others have it in a way that excludes this one."""
        lock = (self._folder / "locks" / name).open("ab")
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        return lock

    def _held(self, digest: str) -> Held | None:
        lock = self._lock(digest, fcntl.LOCK_SH)
        if lock is None:
            return None
        if not self.path(digest).is_dir():
            lock.close()
            return None
        _note_use(lock)
        return Held(self.path(digest), lock)

    @contextlib.contextmanager
    def _room(self) -> Iterator[int]:
        """One at a time on this host looks at the room and makes some; gives the bytes that others are fetching."""
        with (self._folder / "locks" / "room").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            coming = 0
            for left in self._folder.glob(".*-*-*"):
                _what, digest, size = left.name.split("-")
                abandoned = self._lock(digest, fcntl.LOCK_EX)
                if abandoned is None:
                    coming += int(size)
                else:
                    with abandoned:
                        shutil.rmtree(left)
            yield coming

    # --- fetching -------------------------------------------------------------------------------------------
    def _fetch_or_rest(self, digest: str, is_unwanted: Callable[[], bool]) -> None:
        """Whoever calls it has the lock alone."""
        started = time.monotonic()
        until, why = _resting.get(self.path(digest), (0.0, ""))
        if started < until:
            raise StorageError(why)
        try:
            self._fetch(digest, is_unwanted)
        except Stopped:
            raise
        except StorageError as error:
            now = time.monotonic()
            _resting[self.path(digest)] = now + _REST_FACTOR * (now - started), str(error)
            raise

    def _fetch(self, digest: str, is_unwanted: Callable[[], bool]) -> None:
        manifest = contents.manifest_of(self._kind, digest)
        for left in self._folder.glob(f"{_FETCHING}-{digest}-*"):
            shutil.rmtree(left)
        incoming = self._folder / f"{_FETCHING}-{digest}-{manifest.size}"
        with self._room() as coming:
            self._make_room(manifest, coming)
            incoming.mkdir()
        try:
            logger.info("fetching %s (%s) from the shared storage", manifest.name, _gb(manifest.size))
            progress = _Progress(manifest, is_unwanted)
            for entry in manifest.files:
                self._fetch_file(digest, entry, incoming / entry.name, progress)
            sync_path(incoming)
            incoming.rename(self.path(digest))
            sync_path(self._folder)
        except BaseException:
            shutil.rmtree(incoming, ignore_errors=True)
            raise
        logger.info("%s is here and is what was put there", manifest.name)

    def _fetch_file(
        self, digest: str, entry: contents.FileEntry, target: Path, progress: Callable[[int], None]
    ) -> None:
        found, size = hashlib.sha256(), 0
        with target.open("wb") as file:
            for chunk in shared_storage.read(f"{self._kind}/{digest}/{entry.name}"):
                found.update(chunk)
                file.write(chunk)
                size += len(chunk)
                progress(len(chunk))
                if size > entry.size:
                    break
            file.flush()
            os.fsync(file.fileno())
        if found.hexdigest() != entry.sha256:
            raise StorageError(
                f"{self._kind}/{digest}/{entry.name} in the shared storage is not the file that was put there "
                "(its SHA-256 differs)."
            )

    # --- room -----------------------------------------------------------------------------------------------
    def _make_room(self, manifest: contents.Manifest, coming: int) -> None:
        """The longest unused that nobody holds goes first. Raises StorageError."""
        needed, what = manifest.size, f"{manifest.name} has {_gb(manifest.size)}"
        if needed > self._limit:
            raise StorageError(
                f"{what}, and the cache in {self._folder} may have {_gb(self._limit)}: raise MODEL_CACHE_GB."
            )
        sizes = {digest: _size(self.path(digest)) for digest in self._digests()}
        for digest in sorted(sizes, key=self._used_at):
            if sum(sizes.values()) + coming + needed <= self._limit and self._free() >= coming + needed:
                return
            if self._remove(digest):
                sizes[digest] = 0
        if (taken := sum(sizes.values()) + coming) + needed > self._limit:
            raise StorageError(
                f"{what}, and of the {_gb(self._limit)} of the cache in {self._folder} {_gb(taken)} are in use: "
                "raise MODEL_CACHE_GB."
            )
        if (free := self._free() - coming) < needed:
            raise StorageError(
                f"{what}, and there is room for {_gb(max(free, 0))} where {self._folder} lies: free some space."
            )

    def _free(self) -> int:
        return shutil.disk_usage(self._folder).free - _SPARE_BYTES

    def _digests(self) -> list[str]:
        return [each.name for each in self._folder.iterdir() if len(each.name) == 64]

    def _used_at(self, digest: str) -> float:
        with contextlib.suppress(OSError):
            return (self._folder / "locks" / digest).stat().st_mtime
        return 0.0

    def _remove(self, digest: str) -> bool:
        """False where somebody uses it."""
        lock = self._lock(digest, fcntl.LOCK_EX)
        if lock is None:
            return False
        with lock:
            going = self._folder / f"{_GOING}-{digest}-0"
            self.path(digest).rename(going)
            shutil.rmtree(going)
        logger.info("%s has left %s", digest[:12], self._folder)
        return True


class _Progress:
    """Called with the bytes that came. Raises Stopped."""

    def __init__(self, manifest: contents.Manifest, is_unwanted: Callable[[], bool]) -> None:
        self._manifest, self._is_unwanted = manifest, is_unwanted
        self._done, self._said = 0, time.monotonic()

    def __call__(self, came: int) -> None:
        self._done += came
        _stop_if(self._is_unwanted)
        if time.monotonic() - self._said > _SAY_EVERY:
            self._said = time.monotonic()
            share = self._done / max(self._manifest.size, 1)
            logger.info("fetching %s: %.0f %%", self._manifest.name, 100 * share)


def _note_use(lock: IO[bytes]) -> None:
    now = time.time_ns()  # the kernel's own notion of it is coarser
    os.utime(lock.name, ns=(now, now))


def _stop_if(is_unwanted: Callable[[], bool]) -> None:
    if is_unwanted():
        raise Stopped("It was broken off, since this process stops.")


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
