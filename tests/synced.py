"""Which names of files and folders would be there after a power cut."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest


def note_synced(monkeypatch: pytest.MonkeyPatch) -> dict[Path, set[str]]:
    """Of each folder that is synced from now on, what was in it then."""
    noted: dict[Path, set[str]] = {}

    def sync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            noted[Path(os.readlink(f"/proc/self/fd/{handle}"))] = set(os.listdir(handle))

    monkeypatch.setattr(os, "fsync", sync)
    return noted
