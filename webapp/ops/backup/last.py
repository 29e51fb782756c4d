"""The last backup of this $FLYWHEEL_HOME, as `manage.py backup` leaves word of it for whoever watches the site."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import msgspec
from django.conf import settings


class LastBackup(msgspec.Struct):
    finished_at: datetime
    path: str = ""
    bytes: int = 0
    seconds: float = 0.0


def note(backup: LastBackup) -> None:
    """Raises OSError."""
    aside = _file().with_suffix(".new")
    aside.write_bytes(msgspec.json.encode(backup) + b"\n")
    os.replace(aside, _file())


def last_backup() -> LastBackup | None:
    """None where there was none, or nothing can be made of what is said of it."""
    try:
        return msgspec.json.decode(_file().read_bytes(), type=LastBackup)
    except (OSError, msgspec.DecodeError):
        return None


def _file() -> Path:
    home: Path = settings.FLYWHEEL_HOME
    return home / "run" / "last_backup.json"
