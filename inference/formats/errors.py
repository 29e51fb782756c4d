"""The one error of reading model files. Knows nothing of torch, and nothing of who wanted the file."""

from __future__ import annotations

from pathlib import Path


class ModelFileError(Exception):
    """A model file is missing, truncated, hostile or not of a kind we read; the message names it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path.name}: {reason}")
        self.path, self.reason = path, reason
