"""What an uploaded file seems to be: its layout by content, its shape by the names of its fields, its first rows.

Nothing is decided by the name alone; where it lies, `reason` says so. Knows nothing of who corrects it.
"""

from __future__ import annotations

from pathlib import Path

from training.datasets import children
from training.datasets.layouts import see
from training.datasets.looking import look_into, refused
from training.datasets.problems import DataError
from training.datasets.readers import FRAGILE
from training.datasets.sources import Detected


def detect(path: Path, name: str) -> Detected:
    """Takes seconds at most, whatever the file. Raises nothing but OSError where there is no file."""
    seen = see(path, name)
    if seen.layout in FRAGILE:
        try:
            return children.detect(path, name)
        except DataError as error:
            return refused(seen, error.code, error.message)
    return look_into(path, name, seen)
