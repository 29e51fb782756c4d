"""From the engine thread to the token log: each running generation's events, appended by one publisher thread.

The engine never waits for the broker. What was emitted is kept until the generation is over, so that what a
restarted broker lost is appended again. Knows nothing of the engine or the database.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from redis.exceptions import RedisError

from inference.stream import STALE, Append, TokenLog, encode_event

logger = logging.getLogger(__name__)

# More generations than this in one script call would hold up the broker's other clients.
_MAX_APPENDS = 128
# How long stop() waits for a broker that is away.
_FLUSH_SECONDS = 5.0


class Emission:
    """One attempt's events. Appended to by the worker, drained by the Publisher."""

    def __init__(self, generation_id: str, attempt: int, prior: list[str]) -> None:
        """`prior`: encoded events an earlier attempt logged, which ours continue."""
        self.generation_id = generation_id
        self.attempt = attempt
        self.events = prior  # events[i] has seq i + 1
        self.logged = len(prior)
        self.finished = False
        self.stale = False  # a newer attempt has taken over: nothing of ours is wanted any more

    @property
    def settled(self) -> bool:
        return self.stale or self.logged == len(self.events)


class Publisher:
    """Appends what is pending, all generations in one call, as often as the broker answers."""

    def __init__(self, log: TokenLog) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._pending: dict[str, Emission] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def emit(self, batch: list[tuple[Emission, str, dict[str, Any]]], *, finished: bool = False) -> None:
        """Adds events (emission, type, data), one step's worth, and wakes the publisher. Never blocks on the broker."""
        with self._work:
            for emission, type_, data in batch:
                emission.events.append(encode_event(emission.attempt, type_, data))
                emission.finished = finished
                self._pending[emission.generation_id] = emission
            self._work.notify_all()

    def flush(self) -> None:
        """Waits until everything emitted so far is logged; for a few seconds at most, where the broker is away."""
        with self._work:
            self._work.wait_for(lambda: not self._pending, timeout=_FLUSH_SECONDS)

    def stop(self) -> None:
        """Appends what is left, for a few seconds at most, and ends the thread."""
        with self._work:
            self._stopping = True
            self._work.notify_all()
        self._thread.join(_FLUSH_SECONDS + 1)

    def _run(self) -> None:
        pause, give_up_at = 0.0, None
        while True:
            with self._work:
                while not self._pending and not self._stopping:
                    self._work.wait()
                if self._stopping:
                    give_up_at = give_up_at or time.monotonic() + _FLUSH_SECONDS
                    if not self._pending or time.monotonic() > give_up_at:
                        return
                batch = list(self._pending.values())[:_MAX_APPENDS]
                appends = [
                    Append(
                        e.generation_id,
                        e.attempt,
                        [(i + 1, e.events[i]) for i in range(e.logged, len(e.events))],
                        e.finished,
                    )
                    for e in batch
                ]
            try:
                answers = self._log.append(appends)
                pause = 0.0
            except Exception as error:  # whatever it is, every reader of this process waits for this thread
                pause = min(max(pause * 2, 0.05), 1.0)
                known = isinstance(error, RedisError)
                logger.warning("token log not reachable, trying again: %s", error, exc_info=not known)
                time.sleep(pause)
                continue
            with self._work:
                for emission, last in zip(batch, answers, strict=True):
                    emission.stale = last == STALE
                    # A log shorter than what we had appended has lost entries: they go out again from there.
                    emission.logged = min(max(last, 0), len(emission.events))
                    # What has grown meanwhile goes behind those that have not had their turn.
                    if self._pending.pop(emission.generation_id, None) and not emission.settled:
                        self._pending[emission.generation_id] = emission
                if not self._pending:
                    self._work.notify_all()
