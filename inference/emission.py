"""From the engine thread to the token log: each running generation's events, appended by one publisher thread.

The engine never waits for the broker. What was emitted is kept until the generation is over, so that what a
restarted broker lost is appended again. Knows nothing of the engine or the database.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, NamedTuple

from redis.exceptions import RedisError

from inference.extras import Item
from inference.stream import STALE, Append, TokenLog, encode_event

logger = logging.getLogger(__name__)

# More generations than this in one script call would hold up the broker's other clients.
_MAX_APPENDS = 256
# The rest between two rounds, in seconds. The least is two of a screen's frames: a fast model's tokens go out by threes
# and fours, and their way to the page takes less from the model that makes the next (0.7 ms of a processor for each;
# 1.1 by twos). Each generation's own way takes as much again, so the more of them there are, the longer it is.
_LEAST_REST, _REST_FOR_EACH, _MAX_REST = 0.030, 0.003, 0.05
# Somebody waits for a reply's beginning and for its end: those cut a rest short, down to this for each generation.
_SHORT_REST_FOR_EACH = 0.001
# How long stop() waits for a broker that is away.
_FLUSH_SECONDS = 5.0


class Emission:
    """One attempt's events. Added to and drained under the Publisher's lock.

    Text that comes before the publisher has taken the last of it joins that event: when the broker or the readers are
    busy, entries grow longer instead of more.
    """

    def __init__(self, generation_id: str, attempt: int, prior: list[str]) -> None:
        """`prior`: encoded events an earlier attempt logged, which ours continue."""
        self.generation_id = generation_id
        self.attempt = attempt
        self.events = prior  # events[i] has seq i + 1
        self.logged = len(prior)
        self.finished = False
        self.stale = False  # a newer attempt has taken over: nothing of ours is wanted any more
        self._texts: list[str] = []
        self._ids: list[int] = []
        self._logprobs: list[Item] = []

    def add_text(self, text: str, ids: list[int], logprobs: list[Item] | None = None) -> None:
        self._texts.append(text)
        self._ids += ids
        if logprobs is not None:
            self._logprobs += logprobs

    def add(self, type_: str, data: dict[str, Any]) -> None:
        self._seal()
        self.events.append(encode_event(self.attempt, type_, data))

    def take(self) -> Append:
        """What is to be logged next."""
        self._seal()
        entries = [(i + 1, self.events[i]) for i in range(self.logged, len(self.events))]
        return Append(self.generation_id, self.attempt, entries, self.finished)

    def answered(self, last: int) -> None:
        """`last`: what TokenLog.append said of it."""
        self.stale = last == STALE
        # A log shorter than what we had appended has lost entries: they go out again from there.
        self.logged = min(max(last, 0), len(self.events))

    @property
    def started(self) -> bool:
        return bool(self.events or self._texts)

    @property
    def settled(self) -> bool:
        return self.stale or (self.logged == len(self.events) and not self._texts)

    def _seal(self) -> None:
        if self._texts:
            data: dict[str, Any] = {"text": "".join(self._texts), "ids": self._ids}
            if self._logprobs:
                data["logprobs"] = self._logprobs
            self.events.append(encode_event(self.attempt, "text", data))
            self._texts, self._ids, self._logprobs = [], [], []


class NewText(NamedTuple):
    """What one step added to one generation."""

    emission: Emission
    text: str
    ids: list[int]
    logprobs: list[Item] | None = None  # one for each id, where they were asked for


class Publisher:
    """Appends what is pending, up to _MAX_APPENDS generations in one call.

    After each round it rests as long as the round took: what comes alone goes out at once, and a broker with a thousand
    has as much time for its readers as for us.
    """

    def __init__(self, log: TokenLog) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._pending: dict[str, Emission] = {}
        self._stopping = False
        self._awaited = threading.Event()  # more than text has come
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def emit_texts(self, step: list[NewText]) -> None:
        """Adds one step's texts and wakes the publisher. Never blocks on the broker."""
        pending = self._pending
        with self._work:
            for emission, text, ids, logprobs in step:
                emission.add_text(text, ids, logprobs)
                pending[emission.generation_id] = emission
            self._work.notify_all()

    def emit(self, emission: Emission, type_: str, data: dict[str, Any], *, finished: bool = False) -> None:
        """Adds an event that is not text, `finished` if it is the last, and wakes the publisher."""
        with self._work:
            emission.add(type_, data)
            emission.finished = finished
            self._pending[emission.generation_id] = emission
            self._awaited.set()
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
                self._awaited.clear()
                round_ = list(self._pending.values())
            started = time.monotonic()
            try:
                for at in range(0, len(round_), _MAX_APPENDS):
                    self._append(round_[at : at + _MAX_APPENDS])
                pause = 0.0
            except Exception as error:  # whatever it is, every reader of this process waits for this thread
                pause = min(max(pause * 2, 0.05), 1.0)
                known = isinstance(error, RedisError)
                logger.warning("token log not reachable, trying again: %s", error, exc_info=not known)
            took = time.monotonic() - started
            if pause:
                time.sleep(pause)
            else:
                self._rest(
                    at_least=min(max(took, _SHORT_REST_FOR_EACH * len(round_)), _MAX_REST),
                    at_most=min(max(took, _LEAST_REST, _REST_FOR_EACH * len(round_)), _MAX_REST),
                )

    def _rest(self, *, at_least: float, at_most: float) -> None:
        time.sleep(at_least)
        self._awaited.wait(at_most - at_least)

    def _append(self, batch: list[Emission]) -> None:
        with self._work:
            appends = [emission.take() for emission in batch]
        answers = self._log.append(appends)
        with self._work:
            for emission, last in zip(batch, answers, strict=True):
                emission.answered(last)
                # A newer attempt of this worker's may have taken its place meanwhile.
                if emission.settled and self._pending.get(emission.generation_id) is emission:
                    del self._pending[emission.generation_id]
            if not self._pending:
                self._work.notify_all()
