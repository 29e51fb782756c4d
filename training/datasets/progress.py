"""How long work says how far it is, and hears that it is no longer wanted. Knows nothing of what the work is."""

from __future__ import annotations

from typing import Protocol


class Cancelled(Exception):
    """Whoever asked for the work no longer wants it."""


class Progress(Protocol):
    def __call__(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` bytes or examples of the stage ("reading", "profiling", ...). May raise Cancelled."""


def silent(stage: str, done: int, total: int) -> None:
    """Nobody watches."""
