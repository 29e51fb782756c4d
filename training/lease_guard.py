"""Ends a trainer whose worker cannot renew its lease, before the lease is over. Knows nothing of rows.

Once it is over another host may have the job, and two would write one folder. It is a thread of its own, since whoever
renews the lease may be waiting just then for a database that does not answer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from training.patience import CANCEL_SECONDS
from training.trainer_process import ENDING_SECONDS, NotEnded

logger = logging.getLogger(__name__)
_TICK = 0.2  # seconds


class Guarded(Protocol):
    def stop(self) -> None: ...
    def kill(self) -> None: ...


class LeaseGuard:
    """Of one attempt, whose lease was renewed just now."""

    def __init__(self, lease: float) -> None:
        """`lease`: seconds."""
        self._lease, self._renewed_at = lease, time.monotonic()
        self.has_given_up = False

    def renewed(self, at: float) -> None:
        """`at`: on time.monotonic()'s clock, before it was asked for: no later than what the row says."""
        self._renewed_at = at

    @property
    def _silent(self) -> float:
        return time.monotonic() - self._renewed_at

    @contextmanager
    def watching(self, trainer: Guarded) -> Iterator[None]:
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(trainer, over), name="lease_guard", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _watch(self, trainer: Guarded, over: threading.Event) -> None:
        while not over.wait(_TICK):
            if self._silent > self._lease - ENDING_SECONDS:
                try:
                    trainer.kill()
                except NotEnded:
                    logger.exception("a trainer outlives the lease of its job")
                return
            if self._silent > self._lease - ENDING_SECONDS - CANCEL_SECONDS and not self.has_given_up:
                self.has_given_up = True  # there is just time enough to save and to end
                logger.warning("a lease was not renewed for %.0f s: its trainer is stopped", self._silent)
                trainer.stop()
