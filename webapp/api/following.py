"""A call's generations, followed together by the request that waits for them. Knows no endpoint's shapes.

    following = Following(caller, ids, param="messages")
    try:
        started = await following.begin(partial(services.start_completion, ids=ids, ...))
        await following.admitted()              # from here on the HTTP status is decided
        choices = await following.whole()       # or: async for changed in following.changes(): ...
    finally:
        following.close()

What a reader has not taken yet is kept merged, as each choice's text: a slow client costs one text, not its events.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from asgiref.sync import sync_to_async

from inference.follow import StepReader
from inference.models import Generation
from inference.stream import Event
from webapp.api import failures, services
from webapp.api.callers import Caller
from webapp.api.open_streams import OpenStreams
from webapp.core.errors import UserError

T = TypeVar("T")
# How long a client that may come back is waited for, in seconds.
GRACE_SECONDS = 30.0

_background: set[asyncio.Task[None]] = set()


class Choice:
    """One generation so far."""

    def __init__(self, index: int, param: str) -> None:
        self.index = index
        self.admitted = self.ended = False
        self.text = ""
        self.logprobs: list[dict[str, Any]] = []  # OpenAI's items, one for each token
        self.prompt_logprobs: list[dict[str, Any]] = []
        self.result: dict[str, Any] = {}  # "embedding" or "scores"
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = 0
        self.finish_reason = ""
        self.failure: UserError | None = None
        self._param = param

    @classmethod
    def of_row(cls, row: Generation, param: str) -> Choice:
        """One that is over."""
        choice = cls(row.choice, param)
        choice._reset({"text": row.text, "extras": row.extras})
        choice.hear(Event(0, row.attempt, *row.last_event()))
        return choice

    def hear(self, event: Event) -> None:
        data = event.data
        match event.type:
            case "text":
                self.text += data["text"]
                self.logprobs += data.get("logprobs", ())
            case "admitted":
                self.admitted = True
                self.prompt_tokens = data["prompt_tokens"]
            case "prompt":
                self.prompt_logprobs = data["logprobs"]
            case "result":
                self.result = data
            case "reset":
                self._reset(data)
            case "refused":
                self.ended, self.failure = True, failures.refused(data, self._param)
            case "done":
                self.ended = True
                self.prompt_tokens, self.completion_tokens = data["prompt_tokens"], data["completion_tokens"]
                # An event that was logged by an earlier version does not say it.
                self.cached_tokens = data.get("cached_tokens", 0)
                self.finish_reason = data["finish_reason"]
                if data["state"] != Generation.State.COMPLETE:
                    self.failure = failures.failed(data)

    def _reset(self, data: dict[str, Any]) -> None:
        self.admitted = True
        self.text = data["text"]
        extras = data.get("extras", {})
        self.logprobs = extras.get("logprobs", [])
        self.prompt_logprobs = extras.get("prompt_logprobs", [])
        self.result = {name: extras[name] for name in ("embedding", "scores") if name in extras}


class Following:
    """Made and used in one event loop. `close` ends it, whatever has happened."""

    def __init__(
        self,
        caller: Caller,
        ids: Sequence[UUID],
        *,
        param: str,
        each: int | None = None,
        resumable: UUID | None = None,
        rows: Sequence[Generation] | None = None,
        lasting: bool = False,
    ) -> None:
        """`ids` are of generations, `each` of them choices of one prompt [all]; `param` is where the route takes the
        prompt from. `resumable` names a call that a client may come back to. `rows` are those of generations that
        exist already; where there are none, `begin` makes them. `lasting`: they go on whether or not anybody reads.
        """
        self.caller, self.ids, self.resumable, self.lasting = caller, ids, resumable, lasting
        over = {row.id: Choice.of_row(row, param) for row in rows or () if row.is_finished}
        self.choices = [over.get(id_) or Choice(index, param) for index, id_ in enumerate(ids)]
        self.woken = time.monotonic()
        self._leading = self.choices[:: each or len(ids)]
        self._begun = rows is not None
        self._closed = self._poked = False
        self._is_read = False  # as it grows, and not only at its end
        self._error: UserError | None = None
        self._is_let_go = False
        self._changed: dict[Choice, None] = dict.fromkeys(over.values())  # an ordered set
        self._arrived = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        reader = StepReader.current()
        self._followers = [
            reader.attach(id_, partial(self._hear, choice), fresh=rows is None)
            for id_, choice in zip(ids, self.choices, strict=True)
            if not choice.ended
        ]
        OpenStreams.current().add(self)

    async def begin(self, start: Callable[[], T]) -> T:
        """Runs `start`, which records the generations, on the database's thread.

        A client that hangs up meanwhile does not leave it unknown whether it was done.
        """
        started = asyncio.ensure_future(_visit(start))
        try:
            found = await asyncio.shield(started)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await started
                self._begun = True
            raise
        self._begun = True
        for follower in self._followers:
            follower.begun()
        return found

    async def admitted(self) -> None:
        """Returns when a choice of every prompt was admitted or has ended. Raises UserError where one was not."""
        while not all(choice.admitted or choice.ended for choice in self._leading):
            await self._wait()
            self._raise_failure()
        # It may all have come while the rows were still being recorded.
        if any(choice.ended and not choice.admitted for choice in self._leading):
            self._raise_failure()

    async def whole(self) -> list[Choice]:
        """All choices, once they have ended. Raises UserError where one did not end well."""
        while not self._all_ended:
            await self._wait()
            self._raise_failure()
        self._raise_failure()
        return self.choices

    async def changes(self) -> AsyncIterator[list[Choice]]:
        """The choices that have changed since last time, first those that have anything; empty where nothing has come
        for so long that the reader should hear of it. Raises UserError, behind what came before it, where one does not
        end well."""
        self._is_read = True
        while True:
            self._arrived.clear()
            changed, self._changed = self._changed, {}
            if changed or self._poked:
                self._poked = False
                yield list(changed)
            if not self._changed:
                self._raise_failure()
                if self._all_ended:
                    return
                await self._wait()

    def end(self, error: UserError) -> None:
        """The reader is told of this error, and what has not ended is cancelled."""
        self._error = error
        self._arrived.set()

    def let_go(self, error: UserError) -> None:
        """The reader is told of this error, and what it may come back to goes on."""
        self._is_let_go = True
        self.end(error)

    def poke(self) -> None:
        """Wakes the reader up, with nothing to tell."""
        self._poked = True
        self._arrived.set()

    def close(self) -> None:
        """What has not ended is cancelled: at once, or where the client may come back, once it does not."""
        if self._closed:
            return
        self._closed = True
        OpenStreams.current().remove(self)
        for follower in self._followers:
            follower.detach()
        left = [id_ for id_, choice in zip(self.ids, self.choices, strict=True) if not choice.ended]
        if left and self._begun and not self.lasting:
            wait = self.resumable is not None and (self._error is None or self._is_let_go)
            run_in_background(_cancel(left, self.resumable if wait else None))

    def close_from_any_thread(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self.close)

    @property
    def _all_ended(self) -> bool:
        return all(choice.ended for choice in self.choices)

    def _hear(self, choice: Choice, event: Event) -> None:
        choice.hear(event)
        self._changed[choice] = None
        if self._is_read or event.type != "text":
            self._arrived.set()

    async def _wait(self) -> None:
        await self._arrived.wait()
        self._arrived.clear()
        self.woken = time.monotonic()

    def _raise_failure(self) -> None:
        failure = self._error or next((c.failure for c in self.choices if c.failure is not None), None)
        if failure is not None:
            raise failure


@sync_to_async
def _visit(work: Callable[[], T]) -> T:
    return work()


async def _cancel(ids: list[UUID], resumable: UUID | None) -> None:
    if resumable is not None:
        await asyncio.sleep(GRACE_SECONDS)
        if await sync_to_async(services.is_read)(resumable):
            return
    await sync_to_async(services.cancel_generations)(ids=ids)


def run_in_background(work: Coroutine[Any, Any, None]) -> None:
    """In a context of its own: the request's, and its thread for the database, end with the request."""
    task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
    _background.add(task)
    task.add_done_callback(_background.discard)
