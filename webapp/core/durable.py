"""That what was written, or renamed, outlives a power cut. Knows not what it is."""

from __future__ import annotations

import os
from pathlib import Path


def sync_path(path: Path) -> None:
    """A file's content, or which names a folder has, is on the disk afterwards. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
