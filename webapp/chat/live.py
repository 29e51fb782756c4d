"""Replies as they grow: one LiveReply for each that somebody in this process watches, however many watch it.

The reply follows its token log, renders Markdown as blocks finish, and gives every Watcher (a socket) what it has
not sent yet, merged. One flush task serves all: text goes out at once, rendering takes its turn within a budget.
`docs/architecture.md` says what the frames mean.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

from inference.follow import StepReader
from inference.stream import TERMINAL_TYPES, Event
from webapp.chat.markdown import BlockSplitter, render, render_open

logger = logging.getLogger(__name__)

# After a flush the task sleeps twice as long as the flush took, within these: a lone stream is hardly delayed,
# and a busy process sends fewer, larger frames instead of falling behind. (Figures: measured, not guessed. With 50 ms
# at the most, 1,500 streams took 85 % of a core for their frames and fell seconds behind; with 100, 64 %.)
MIN_PAUSE, MAX_PAUSE = 0.001, 0.1
# Replies that are flushed before everything else on the event loop gets a turn.
FLUSH_BATCH = 64
# Markdown costs far more than text, so it waits: for this long after a reply was last rendered ...
RENDER_INTERVAL = 0.25
# ... and for the next flush, when rendering has taken this much of one.
RENDER_BUDGET = 0.025
# A reply's log is read in milliseconds, or when the broker is back: for that nobody waits.
ARRIVAL_SECONDS = 0.5

SendFrame = Callable[[dict[str, Any]], Awaitable[None]]
# Makes the `done` frame of a message, whose finished blocks are given where they are known.
Finish = Callable[[UUID, list[str] | None], Awaitable[dict[str, Any]]]


class Watcher:
    """One socket's view of its replies. What it has not sent yet is merged, so a slow socket costs one frame a reply
    and delays nobody else."""

    __slots__ = ("_arriving", "_ended", "_pending", "_send_frame", "_sender", "closed", "replies")

    def __init__(self, send_frame: SendFrame) -> None:
        self._send_frame = send_frame
        self._pending: dict[UUID, dict[str, Any]] = {}
        self._ended: list[dict[str, Any]] = []
        self._sender: asyncio.Task[None] | None = None
        self._arriving: set[asyncio.Task[None]] = set()
        self.closed = False
        self.replies: set[LiveReply] = set()

    async def watch(self, reply: LiveReply, *, blocks: int = 0, attempt: int = -1) -> None:
        """As `LiveReply.watch`, but for what takes long, which goes on behind this: the page's next command is not to
        wait for a broker that is away."""
        arriving = asyncio.ensure_future(reply.watch(self, blocks=blocks, attempt=attempt))
        self._arriving.add(arriving)
        arriving.add_done_callback(self._arriving.discard)
        await asyncio.wait([arriving], timeout=ARRIVAL_SECONDS)
        if arriving.done():
            arriving.result()

    def leave(self) -> None:
        """Nothing more comes of the replies that were watched."""
        for arriving in tuple(self._arriving):
            arriving.cancel()
        for reply in tuple(self.replies):
            reply.unwatch(self)

    def add(self, message_id: UUID, frame: dict[str, Any]) -> None:
        """Merges a `stream` frame into what waits to be sent. The order of its parts is the protocol's."""
        pending = self._pending.setdefault(message_id, {"type": "stream", "message": str(message_id)})
        if "base" in frame:
            for part in ("blocks", "open", "text"):
                pending.pop(part, None)
        if frame.get("blocks"):
            pending["blocks"] = pending.get("blocks", []) + frame["blocks"]
        if "open" in frame:
            pending.pop("text", None)
        text = pending.get("text", "") + frame.get("text", "")
        pending |= {part: value for part, value in frame.items() if part not in ("blocks", "text")}
        if text:
            pending["text"] = text
        self._wake()

    def end(self, frame: dict[str, Any]) -> None:
        """Sends a `done` frame behind everything merged so far."""
        self._ended.append(frame)
        self._wake()

    def close(self) -> None:
        self.closed = True
        self.leave()
        if self._sender is not None:
            self._sender.cancel()

    def forget(self, message_id: UUID) -> None:
        self._pending.pop(message_id, None)

    def _wake(self) -> None:
        if self._sender is None or self._sender.done():
            self._sender = asyncio.ensure_future(self._send())

    async def _send(self) -> None:
        while self._pending or self._ended:
            pending, self._pending = self._pending, {}
            ended, self._ended = self._ended, []
            for frame in (*pending.values(), *ended):
                await self._send_frame(frame)


class LiveReply:
    """One reply's text so far, and who watches it."""

    def __init__(self, hub: LiveHub, message_id: UUID, generation_id: UUID, finish: Finish) -> None:
        self._hub = hub
        self.finish = finish
        self.message_id = message_id
        self.generation_id = generation_id
        self.attempt = 0
        self.watchers: set[Watcher] = set()
        self.rendered_at = 0.0
        self.ended = False
        self._arriving = 0  # watchers that wait for the log to be read
        self._splitter = BlockSplitter()
        self._blocks: list[str] = []
        self._open = ""  # the open block's HTML when it was last rendered
        self._tail = ""  # what has come since
        self._unsent = ""  # the end of `_tail` that watchers have not been given
        self._follower = StepReader.current().attach(generation_id, self._hear)

    async def watch(self, watcher: Watcher, *, blocks: int = 0, attempt: int = -1) -> None:
        """Gives the watcher all of the reply beyond its first `blocks` finished blocks, and then what follows.

        `attempt` is the one the watcher's blocks came from; where that is not ours it starts over.
        """
        self._arriving += 1
        try:
            await asyncio.shield(self._follower.caught_up)
        except asyncio.CancelledError:
            self._arriving -= 1
            self._leave_if_unwatched()
            raise
        self._arriving -= 1
        if self.ended:
            watcher.end(await self.finish(self.message_id, None))
            return
        if watcher.closed:
            self._leave_if_unwatched()
            return
        if time.monotonic() - self.rendered_at > RENDER_INTERVAL:
            self.flush_blocks()
        self._give_text()
        base = blocks if attempt == self.attempt and blocks <= len(self._blocks) else 0
        frame: dict[str, Any] = {
            "base": base,
            "attempt": self.attempt,
            "blocks": self._blocks[base:],
            "open": self._open,
        }
        watcher.add(self.message_id, frame | {"text": self._tail})
        watcher.replies.add(self)
        self.watchers.add(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        watcher.replies.discard(self)
        watcher.forget(self.message_id)
        self.watchers.discard(watcher)
        self._leave_if_unwatched()

    def _leave_if_unwatched(self) -> None:
        if not self.watchers and not self._arriving:
            self._follower.detach()
            self._hub.forget(self)

    def _hear(self, event: Event) -> None:
        self.attempt = event.attempt
        if event.type == "text":
            self._tail += event.data["text"]
            self._unsent += event.data["text"]
        elif event.type == "reset":
            self._splitter, self._blocks, self._open = BlockSplitter(), [], ""
            self._tail = event.data["text"]
            self._unsent = ""
            self._render_tail()
            self._give({"base": 0, "blocks": self._blocks, "open": self._open})
        elif event.type in TERMINAL_TYPES:
            self.ended = True
            self._hub.end(self)
            return
        if self._unsent:
            self._hub.mark(self)

    def flush_text(self) -> None:
        self._give_text()

    def flush_blocks(self) -> None:
        """Renders what has come since last time. Raises nothing: `render` copes with any text."""
        self._give_text()
        before = len(self._blocks)
        if not self._tail:
            return
        self._render_tail()
        self._give({"blocks": self._blocks[before:], "open": self._open})

    def flush_end(self) -> list[str]:
        """No text will follow: the open block is finished too. Returns the blocks of the whole reply."""
        self._give_text()
        before = len(self._blocks)
        self._render_tail()
        if last := render(self._splitter.rest):
            self._blocks.append(last)
        self._open = ""
        self._give({"blocks": self._blocks[before:], "open": ""})
        return self._blocks

    def _render_tail(self) -> None:
        self.rendered_at = time.monotonic()
        self._blocks += filter(None, map(render, self._splitter.feed(self._tail)))
        self._open = render_open(self._splitter.rest)
        self._tail = ""

    def _give_text(self) -> None:
        if self._unsent:
            self._give({"text": self._unsent})
            self._unsent = ""

    def _give(self, frame: dict[str, Any]) -> None:
        frame["attempt"] = self.attempt
        for watcher in self.watchers:
            watcher.add(self.message_id, frame)


class LiveHub:
    """The live replies of this event loop and the task that flushes them."""

    _of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, LiveHub] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._replies: dict[UUID, LiveReply] = {}
        self._changed: dict[LiveReply, None] = {}  # an ordered set: unsent text
        self._unrendered: dict[LiveReply, None] = {}  # text on screen that is not Markdown yet
        self._ending: dict[LiveReply, None] = {}
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._task = asyncio.ensure_future(self._flush_for_ever())

    @classmethod
    def current(cls) -> LiveHub:
        loop = asyncio.get_running_loop()
        if loop not in cls._of_loop:
            cls._of_loop[loop] = cls()
        return cls._of_loop[loop]

    def reply(self, message_id: UUID, generation_id: UUID, finish: Finish) -> LiveReply:
        """The live reply of a message; `finish` makes the frame that ends it, for all its watchers."""
        found = self._replies.get(message_id)
        if found is None or found.ended or found.generation_id != generation_id:
            found = self._replies[message_id] = LiveReply(self, message_id, generation_id, finish)
        return found

    def forget(self, reply: LiveReply) -> None:
        if self._replies.get(reply.message_id) is reply:
            del self._replies[reply.message_id]
        self._changed.pop(reply, None)
        self._unrendered.pop(reply, None)

    def mark(self, reply: LiveReply) -> None:
        self._changed[reply] = self._unrendered[reply] = None
        self._wake.set()

    def end(self, reply: LiveReply) -> None:
        self._ending[reply] = None
        self._wake.set()

    async def _flush_for_ever(self) -> None:
        while True:
            if not self._changed and not self._ending:
                # What is on screen as plain text still wants rendering when its interval is over.
                timeout = RENDER_INTERVAL if self._unrendered else None
                try:
                    await asyncio.wait_for(self._wake.wait(), timeout)
                except TimeoutError:
                    pass
            self._wake.clear()
            started = time.monotonic()
            try:
                await self._flush(started)
            except Exception:  # of one reply; this task is everybody's
                logger.exception("live replies could not be flushed")
            took = time.monotonic() - started
            await asyncio.sleep(min(max(2 * took, MIN_PAUSE), MAX_PAUSE))

    async def _flush(self, now: float) -> None:
        """Gives way to the senders, and to whoever else waits for the loop, every few replies: what the senders take
        counts as this flush's time, and a new reader does not wait for a thousand frames."""
        changed, self._changed = self._changed, {}
        for n, reply in enumerate(changed, 1):
            reply.flush_text()
            if n % FLUSH_BATCH == 0:
                await asyncio.sleep(0)
        ending, self._ending = self._ending, {}
        for reply in ending:
            self._unrendered.pop(reply, None)
            task = asyncio.ensure_future(self._end(reply, reply.flush_end()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await asyncio.sleep(0)
        budget_ends = time.monotonic() + RENDER_BUDGET
        for reply in tuple(self._unrendered):
            if now - reply.rendered_at < RENDER_INTERVAL or reply not in self._unrendered:
                continue
            if time.monotonic() > budget_ends:
                break
            # To the back of the queue, so that under load everyone gets a turn.
            del self._unrendered[reply]
            reply.flush_blocks()
            await asyncio.sleep(0)

    async def _end(self, reply: LiveReply, blocks: list[str]) -> None:
        frame = await self._finish(reply, blocks)
        for watcher in tuple(reply.watchers):
            watcher.end(frame)
            watcher.replies.discard(reply)
        reply.watchers.clear()
        self.forget(reply)

    async def _finish(self, reply: LiveReply, blocks: list[str]) -> dict[str, Any]:
        """The frame that ends a reply; while the database is away, its watchers wait for it and are not forgotten."""
        pause = 0.1
        while True:
            try:
                return await reply.finish(reply.message_id, blocks)
            except Exception:
                logger.exception("the end of message %s could not be read, trying again", reply.message_id)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 5.0)
