"""That what was written, or renamed, outlives a power cut. Knows not what it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sync_path(path: Path) -> None:
    """A file's content, or which names a folder has, is on the disk afterwards. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """What is made there within, or moved there, is there after a power cut, with the folders that were missing.

    What it holds is not seen to. Raises OSError.
    """
    make_folders(path.parent)
    yield
    sync_path(path.parent)


def make_folders(path: Path) -> None:
    """It, and those above it; they are there after a power cut. Raises OSError."""
    if not path.is_dir():
        make_folders(path.parent)
        path.mkdir(exist_ok=True)
        sync_path(path.parent)
