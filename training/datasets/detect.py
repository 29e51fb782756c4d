"""What an uploaded file seems to be: its layout by content, its shape by the names of its fields, its first rows.

Nothing is decided by the name alone; where it lies, a notice says so. What a person said of it is not doubted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.datasets import children
from training.datasets.correction import keep_columns
from training.datasets.layouts import see
from training.datasets.looking import look_into, refused, seen_as
from training.datasets.problems import DataError
from training.datasets.readers import FRAGILE
from training.datasets.sources import Detected, Reading


def detect(path: Path, name: str, asked: Reading | None = None, before: Sequence[str] = ()) -> Detected:
    """Takes seconds at most, whatever the file. Raises nothing but OSError where there is no file.

    `asked`: how a person says it is to be read, which then is found out no more; see correction.py for `before`.
    """
    seen = see(path, name) if asked is None else seen_as(asked)
    if seen.layout in FRAGILE:
        try:
            found = children.detect(path, name, asked)
        except DataError as error:
            return refused(seen, error.code, error.message)
    else:
        found = look_into(path, name, seen, asked=asked)
    if asked is not None:
        keep_columns(found, asked, before)
    return found
