"""Says what is being done, and that it still goes on: nothing is silent for more than a few seconds."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

EVERY_SECONDS = 5.0


class Progress:
    """Lines on a terminal or in a log; safe to call from several threads."""

    def __init__(self, write: Callable[[str], None], every: float = EVERY_SECONDS) -> None:
        self._write, self._every, self._lock = write, every, threading.Lock()

    def line(self, text: str) -> None:
        with self._lock:
            self._write(text)

    @contextlib.contextmanager
    def step(self, what: str, waiting_for: Callable[[], str] = str) -> Iterator[Callable[[str], None]]:
        """Announces `what` where it takes long, again every few seconds; `waiting_for` may add why, or what is given to
        the function inside, which says it at once."""
        started = time.monotonic()
        done = threading.Event()
        told = ""

        def now(reason: str) -> None:
            nonlocal told
            told = reason
            self.line(f"  {what}: {reason}")

        def tick() -> None:
            while not done.wait(self._every):
                reason = waiting_for() or told
                self.line(f"  {what}, {time.monotonic() - started:.0f} s{': ' + reason if reason else ''}")

        self.line(f"  {what}")
        thread = threading.Thread(target=tick, name="progress", daemon=True)
        thread.start()
        try:
            yield now
        finally:
            done.set()
            thread.join()
