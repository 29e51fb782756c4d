"""Slow work beside an engine that answers: it rests often, so that most of the cores are left to who is answered.

An engine's products wait for the slowest of their threads, so whoever takes a core from one of them slows all.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import torch


class Pace:
    """Rests twice as long as was worked. Of one thread, which calls it between pieces of its work."""

    def __init__(self, is_answering: Callable[[], bool] = lambda: True) -> None:
        """`is_answering`: whether anybody would gain by it."""
        self._is_answering = is_answering
        self._since = time.thread_time()

    def rest(self) -> None:
        worked = time.thread_time() - self._since
        if worked > 0.001:
            if self._is_answering():
                time.sleep(2 * worked)
            self._since = time.thread_time()


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """What this thread computes is computed by it alone: torch would give it as many threads as the engine's has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
