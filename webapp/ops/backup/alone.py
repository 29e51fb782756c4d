"""One backup of a site at a time, and what one that was killed has left. Two sites may share a folder for theirs."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from webapp.env import SettingsError, generated_secret
from webapp.ops.backup.manifest import BackupError


def site_id(home: Path) -> str:
    """What each $FLYWHEEL_HOME is called in manifests, 32 letters. It is in no backup: what is restored beside the site
    is another one. Raises BackupError."""
    try:
        return generated_secret(home / "site_id", make=lambda: uuid.uuid4().hex)
    except SettingsError as error:
        raise BackupError(str(error)) from error


def held_folder(home: Path) -> Path:
    """Where files are held while a backup copies them."""
    return home / "run" / "backup"


@contextlib.contextmanager
def alone(home: Path) -> Iterator[None]:
    """Raises BackupError while another backup of this site is being made. Who is killed holds it no more."""
    (home / "run").mkdir(parents=True, exist_ok=True)
    with (home / "run" / "backup.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError("Another backup of this site is being made: wait for it.") from None
        yield


def release_held(home: Path) -> None:
    """Removes what a backup that was killed still holds: people may have deleted it since. Raises OSError."""
    if held_folder(home).exists():
        with contextlib.suppress(BackupError), alone(home):
            shutil.rmtree(held_folder(home))
