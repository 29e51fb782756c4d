"""Live replies when something under them fails: one reader's mistake, or a database that is away, harms nobody else."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from inference.follow import StepReader
from inference.stream import Append, Event, TokenLog, encode_event
from webapp.chat.live import LiveHub, LiveReply, Watcher

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
async def _tasks_end() -> AsyncIterator[None]:
    yield
    if hub := LiveHub._of_loop.pop(asyncio.get_running_loop(), None):
        hub._task.cancel()
    await StepReader.current().close()


@sync_to_async
def log(generation: uuid.UUID, *texts: str, done: bool = True) -> None:
    events = [encode_event(1, "text", {"text": text, "ids": [1]}) for text in texts]
    if done:
        events.append(encode_event(1, "done", {"state": "complete"}))
    TokenLog().append([Append(str(generation), 1, list(enumerate(events, 1)), done)])


async def soon(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_reader_that_fails_is_dropped_and_the_others_read_on() -> None:
    generation, heard = uuid.uuid4(), list[Event]()

    def failing(event: Event) -> None:
        raise RuntimeError("a mistake of this reader")

    reader = StepReader.current()
    bad = reader.attach(generation, failing)
    reader.attach(generation, heard.append)
    await log(generation, "a", "b")
    await soon(lambda: heard and heard[-1].type == "done")
    assert [event.seq for event in heard] == [1, 2, 3]
    assert not reader._follows(bad)


async def test_the_end_of_a_reply_arrives_although_the_database_was_away_when_it_came() -> None:
    generation, message, frames, tries = uuid.uuid4(), uuid.uuid4(), list[dict[str, Any]](), []

    async def finish(message_id: uuid.UUID, blocks: list[str] | None) -> dict[str, Any]:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("the database is away")
        return {"type": "done", "message": str(message_id)}

    async def send(frame: dict[str, Any]) -> None:
        frames.append(frame)

    await log(generation, "Hello", done=False)
    hub = LiveHub.current()
    await hub.reply(message, generation, finish).watch(Watcher(send))
    await log(generation, "Hello", " you")
    await soon(lambda: frames and frames[-1]["type"] == "done")
    assert len(tries) == 2
    assert hub._replies == {}


async def test_a_reply_that_cannot_be_flushed_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual, failed, frames = LiveReply.flush_text, list[int](), list[dict[str, Any]]()

    def flush_text(self: LiveReply) -> None:
        if not failed:
            failed.append(1)
            raise RuntimeError("a mistake in one reply")
        usual(self)

    async def finish(message_id: uuid.UUID, blocks: list[str] | None) -> dict[str, Any]:
        return {"type": "done", "message": str(message_id)}

    async def send(frame: dict[str, Any]) -> None:
        frames.append(frame)

    monkeypatch.setattr(LiveReply, "flush_text", flush_text)
    generation = uuid.uuid4()
    await log(generation, "a", done=False)
    await LiveHub.current().reply(uuid.uuid4(), generation, finish).watch(Watcher(send))
    await log(generation, "a", "b")
    await soon(lambda: frames and frames[-1]["type"] == "done")
