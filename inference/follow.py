"""Following token logs from an event loop: one reader task for all the followers of a process.

Published steps are a fast path. A follower that misses one (a gap in `seq`), or has just arrived, is "behind"
and is fed from the log itself; when the log is gone, from the database row. What a follower is given is each event
once, in order, whatever happened in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import math
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

import msgspec
import redis.asyncio
from asgiref.sync import sync_to_async
from django.conf import settings

from inference.extras import Extras
from inference.models import Generation
from inference.stream import (
    STEPS_CHANNEL,
    TERMINAL_TYPES,
    Event,
    decode_entries,
    decode_step,
    log_key,
    text_of,
)

logger = logging.getLogger(__name__)

# How long a follower may hear nothing before the log and the row are asked whether it missed something.
QUIET_SECONDS = 2.0
# A follow() whose consumer is slower than this many events is fed from the log again when it catches up.
MAX_WAITING_EVENTS = 2000
_CATCH_UP_BATCH = 64

Sink = Callable[[Event], None]

# What readers of a generation that was deleted are told: it will not go on.
_DELETED = Generation(state=Generation.State.CANCELLED)


class Follower:
    """One reader's place in one log. Made by StepReader.attach; `detach` ends it."""

    def __init__(
        self, reader: StepReader, generation_id: str, sink: Sink, after: int, attempt: int | None
    ) -> None:
        self.generation_id = generation_id
        self.seq = after
        self.attempt = attempt
        self.behind = True
        self.missed = 0  # highest seq that was published while this reader was behind
        self.heard = time.monotonic()
        # Resolved when everything the log held at the time of attaching has been given to the sink.
        self.caught_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reader = reader
        self._sink = sink

    def begun(self) -> None:
        """The generation has been recorded: from here on it is looked after where nothing is heard of it."""
        self.heard = min(self.heard, time.monotonic())

    def detach(self) -> None:
        self._reader._forget(self)
        if not self.caught_up.done():
            self.caught_up.set_result(None)

    def give(self, event: Event) -> None:
        self.seq, self.attempt, self.heard = event.seq, event.attempt, time.monotonic()
        try:
            self._sink(event)
        except Exception:  # of one reader: the task that feeds it feeds all the others too
            logger.exception("a reader of generation %s failed and is dropped", self.generation_id)
            self.detach()
        if event.type in TERMINAL_TYPES:
            self.detach()

    def give_log(self, events: list[Event]) -> bool:
        """Gives what is new in `events`, a log from `seq` on; False if the log does not continue what we have."""
        if self.seq:
            if not events or events[0].seq != self.seq or self.attempt not in (None, events[0].attempt):
                return False
            events = events[1:]
        for event in events:
            self.give(event)
        return True

    def give_reset(self, events: list[Event]) -> None:
        """Replaces all this reader has by the whole log `events` (not empty)."""
        last = events[-1]
        end = last if last.type in TERMINAL_TYPES else None
        data = _whole(text_of(events), Extras.logged(events).as_row())
        self.give(Event(last.seq - (end is not None), last.attempt, "reset", data))
        if end:
            self.give(end)

    def give_row(self, generation: Generation) -> None:
        """Ends from the finished row, whose text is the final one."""
        attempt = generation.attempt
        self.give(Event(self.seq, attempt, "reset", _whole(generation.text, generation.extras)))
        self.give(Event(self.seq + 1, attempt, *generation.last_event()))


def _whole(text: str, extras: dict[str, Any]) -> dict[str, Any]:
    """The data of a `reset`: everything there is."""
    return {"text": text, "extras": extras} if extras else {"text": text}


class StepReader:
    """Feeds every Follower of this event loop. `StepReader.current()` is the loop's own; it starts on first use."""

    _of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, StepReader] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._followers: defaultdict[str, set[Follower]] = defaultdict(set)
        self._behind: deque[Follower] = deque()
        self._wake = asyncio.Event()
        self._redis = redis.asyncio.Redis.from_url(
            settings.REDIS_URL, socket_timeout=5, socket_connect_timeout=2, health_check_interval=30
        )
        # An idle subscription is silent for long: it must not time out, its connection is checked by pinging.
        self._subscription = redis.asyncio.Redis.from_url(
            settings.REDIS_URL, socket_timeout=None, socket_connect_timeout=2
        )
        # In a context of their own: that of a request, which may be the first to follow anything, ends with it.
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(run(), context=contextvars.Context())
            for run in (self._listen, self._catch_up, self._look_after_the_quiet)
        ]

    @classmethod
    def current(cls) -> StepReader:
        loop = asyncio.get_running_loop()
        if loop not in cls._of_loop:
            cls._of_loop[loop] = cls()
        return cls._of_loop[loop]

    def attach(
        self,
        generation_id: UUID | str,
        sink: Sink,
        *,
        after: int = 0,
        attempt: int | None = None,
        fresh: bool = False,
    ) -> Follower:
        """Calls `sink(event)`, from the event loop, for each event after `after` until the terminal one.

        `fresh`: there is no log to be read, since the generation is begun only after this; say so with `begun`.
        """
        follower = Follower(self, str(generation_id), sink, after, attempt)
        self._followers[follower.generation_id].add(follower)
        if fresh:
            follower.behind, follower.heard = False, math.inf
            follower.caught_up.set_result(None)
        else:
            self._fall_behind(follower)
        return follower

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._redis.aclose()
        await self._subscription.aclose()
        self._of_loop.pop(asyncio.get_running_loop(), None)

    def _forget(self, follower: Follower) -> None:
        followers = self._followers.get(follower.generation_id)
        if followers:
            followers.discard(follower)
            if not followers:
                del self._followers[follower.generation_id]

    def _follows(self, follower: Follower) -> bool:
        return follower in self._followers.get(follower.generation_id, ())

    def _fall_behind(self, follower: Follower) -> None:
        follower.behind = True
        self._behind.append(follower)
        self._wake.set()

    def _everyone(self) -> list[Follower]:
        return [follower for followers in self._followers.values() for follower in followers]

    # --- the fast path --------------------------------------------------------------------------------------
    async def _listen(self) -> None:
        pause = 0.05
        while _goes_on():
            try:
                async with self._subscription.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await pubsub.subscribe(STEPS_CHANNEL)
                    if not _goes_on():
                        return
                    for follower in self._everyone():
                        if not follower.behind:
                            self._fall_behind(follower)
                    pause = 0.05
                    async for message in pubsub.listen():
                        self._hear(message["data"])
            except Exception as error:  # without this task every reader of the process would be slow
                logger.warning("token log subscription lost, retrying: %s", error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)

    def _hear(self, payload: bytes) -> None:
        try:
            step = decode_step(payload, self._followers)
        except msgspec.DecodeError:
            logger.error("a step message that is not ours was ignored")
            return
        for generation_id, events in step:
            for event in events:
                for follower in tuple(self._followers.get(generation_id, ())):
                    if follower.behind:
                        follower.missed = max(follower.missed, event.seq)
                    elif event.seq == follower.seq + 1:
                        follower.give(event)
                    elif event.seq > follower.seq or (
                        follower.attempt is not None and event.attempt > follower.attempt
                    ):
                        # A gap; or a new attempt goes over ground the broker forgot: the log decides what counts.
                        self._fall_behind(follower)

    # --- the log --------------------------------------------------------------------------------------------
    async def _catch_up(self) -> None:
        while _goes_on():
            while self._behind and _goes_on():
                batch = [self._behind.popleft() for _ in range(min(len(self._behind), _CATCH_UP_BATCH))]
                try:
                    await self._read_logs(batch)
                except Exception:  # broker or database away
                    logger.warning("token logs could not be read, retrying", exc_info=True)
                    self._behind.extendleft(batch)
                    await asyncio.sleep(0.2)
            self._wake.clear()
            if not self._behind and _goes_on():
                await self._wake.wait()

    async def _read_logs(self, waiting: list[Follower]) -> None:
        """Brings each follower to the end of its log, again where something was published during the reading."""
        while waiting := [f for f in waiting if self._follows(f)]:
            for follower in waiting:
                follower.missed = 0
            async with self._redis.pipeline(transaction=False) as pipe:
                for follower in waiting:
                    pipe.xrange(
                        log_key(follower.generation_id), min=f"{follower.seq}-0" if follower.seq else "-"
                    )
                answers = [decode_entries(raw) for raw in await pipe.execute()]
            again = []
            for follower, events in zip(waiting, answers, strict=True):
                if not follower.give_log(events):
                    await self._start_over(follower)
                if follower.missed > follower.seq:
                    again.append(follower)
                elif self._follows(follower):
                    follower.behind = False
                    if not follower.caught_up.done():
                        follower.caught_up.set_result(None)
            waiting = again

    async def _start_over(self, follower: Follower) -> None:
        """The log does not hold what this reader has: it is shorter, from another attempt, or gone."""
        events = decode_entries(await self._redis.xrange(log_key(follower.generation_id)))
        if events:
            follower.give_reset(events)
            return
        row = next(iter(await _rows([follower.generation_id])), _DELETED)
        if row.is_finished:
            follower.give_row(row)
        elif follower.seq:
            follower.give(Event(0, 0, "reset", {"text": ""}))

    # --- the row --------------------------------------------------------------------------------------------
    async def _look_after_the_quiet(self) -> None:
        while _goes_on():
            await asyncio.sleep(QUIET_SECONDS / 4)
            try:
                await self._check_quiet()
            except Exception:  # broker or database away: readers wait, and this notices when they are back
                logger.warning("quiet readers could not be looked after, retrying", exc_info=True)

    async def _check_quiet(self) -> None:
        now = time.monotonic()
        quiet = [f for f in self._everyone() if not f.behind and now - f.heard > QUIET_SECONDS]
        if not quiet:
            return
        rows = {str(row.id): row for row in await _rows({f.generation_id for f in quiet})}
        async with self._redis.pipeline(transaction=False) as pipe:
            for follower in quiet:
                pipe.xrevrange(log_key(follower.generation_id), count=1)
            tails = [decode_entries(raw) for raw in await pipe.execute()]
        for follower, tail in zip(quiet, tails, strict=True):
            if follower.behind or not self._follows(follower):
                continue
            follower.heard = now
            row = rows.get(follower.generation_id, _DELETED)
            if (tail[-1].seq if tail else 0) != follower.seq:
                self._fall_behind(follower)
            elif row.is_finished:
                # Its worker died between the row and the log's last event, or the log is gone.
                follower.give_row(row)


def _goes_on() -> bool:
    """False once this task was cancelled: `asyncio.wait_for`, which redis-py sends with, forgets a cancellation that
    comes just as it ends (python/cpython 86296), and an event loop waits for its tasks before it closes."""
    task = asyncio.current_task()
    return task is None or not task.cancelling()


@sync_to_async
def _rows(ids: Iterable[str]) -> list[Generation]:
    return list(Generation.objects.filter(id__in=list(ids)).defer("messages", "prompt"))


async def follow(
    generation_id: UUID | str, *, after: int = 0, attempt: int | None = None
) -> AsyncIterator[Event]:
    """Each event after `after`, once and in order, until `refused` or `done`.

    A reader that comes back gives the seq and attempt of the last event it saw. Where the log does not continue
    that (it lost entries, or has expired), a `reset` event carries the full text, which is then what counts.
    """
    reader = StepReader.current()
    waiting: deque[Event] = deque()
    arrived = asyncio.Event()

    def sink(event: Event) -> None:
        waiting.append(event)
        arrived.set()
        if len(waiting) > MAX_WAITING_EVENTS:
            follower.detach()

    follower = reader.attach(generation_id, sink, after=after, attempt=attempt)
    try:
        while True:
            await arrived.wait()
            arrived.clear()
            while waiting:
                event = waiting.popleft()
                yield event
                if event.type in TERMINAL_TYPES:
                    return
            if not reader._follows(follower):
                follower = reader.attach(generation_id, sink, after=follower.seq, attempt=follower.attempt)
    finally:
        with contextlib.suppress(RuntimeError):
            follower.detach()
