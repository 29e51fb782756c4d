"""The token log and following it, against a real Valkey: each event once, in order, whatever happens in between."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.follow import StepReader, follow
from inference.stream import STALE, Append, Event, TokenLog, connect, encode_event, log_key
from tests.services import Valkey


@dataclass
class Writer:
    """One attempt of a worker that writes to a log."""

    log: TokenLog
    generation: str = field(default_factory=lambda: str(uuid.uuid4()))
    attempt: int = 1
    seq: int = 0

    def write(self, type_: str, **data: object) -> int:
        self.seq += 1
        event = encode_event(self.attempt, type_, data)
        append = Append(self.generation, self.attempt, [(self.seq, event)], finished=type_ == "done")
        return self.log.append([append])[0]

    def text(self, text: str) -> int:
        return self.write("text", text=text, ids=[len(text)])

    def taken_over(self) -> Writer:
        """Another worker's next attempt, which goes on from what the log holds."""
        events = self.log.take_over(self.generation, self.attempt + 1)
        return Writer(self.log, self.generation, self.attempt + 1, events[-1].seq if events else 0)


@dataclass
class Reader:
    """What a person sees who follows the log, going away and coming back as they like."""

    generation: str
    text: str = ""
    seq: int = 0
    attempt: int | None = None
    types: list[str] = field(default_factory=list)

    async def read(self, most: int | None = None) -> None:
        """Reads on to the end, or until `most` events have come."""
        count = 0
        async for event in follow(self.generation, after=self.seq, attempt=self.attempt):
            self.take(event)
            count += 1
            if count == most:
                return

    def take(self, event: Event) -> None:
        if event.type == "reset":
            self.text = event.data["text"]
        else:
            assert event.seq == self.seq + 1, "an event was left out or came twice"
            self.text += event.data.get("text", "")
        self.seq, self.attempt = event.seq, event.attempt
        self.types.append(event.type)


@pytest.fixture
def log(broker: Valkey) -> TokenLog:
    return TokenLog(connect())


@pytest.fixture
async def reading() -> AsyncIterator[None]:
    """Followers of this test share a reader, which ends with the test."""
    yield
    await StepReader.current().close()


def test_a_stale_attempt_cannot_append_after_another_took_over(log: TokenLog) -> None:
    old = Writer(log)
    old.text("one")
    new = old.taken_over()
    assert old.text("two") == STALE
    assert new.text("deux") == 2
    assert [event.data["text"] for event in log.read(old.generation)] == ["one", "deux"]


def test_an_event_that_is_appended_twice_is_kept_once(log: TokenLog) -> None:
    writer = Writer(log)
    writer.text("one")
    writer.seq = 0
    assert writer.text("one") == 1
    assert len(log.read(writer.generation)) == 1


def test_a_writer_learns_from_which_event_on_the_log_lost_what_it_wrote(log: TokenLog) -> None:
    writer = Writer(log)
    writer.text("one")
    writer.text("two")
    with connect() as client:
        client.xdel(log_key(writer.generation), "2-0")
    # The server refuses ids it has given before, so a log that lost its end is one that was made anew.
    with connect() as client:
        client.delete(log_key(writer.generation))
    assert writer.text("three") == 0


async def test_a_follower_gets_each_event_once_and_in_order_and_then_the_end(
    log: TokenLog, reading: None
) -> None:
    writer = Writer(log)
    reader = Reader(writer.generation)
    task = asyncio.ensure_future(reader.read())
    for word in ("a", "b", "c"):
        await asyncio.to_thread(writer.text, word)
    await asyncio.to_thread(writer.write, "done", state="complete")
    await asyncio.wait_for(task, 10)
    assert (reader.text, reader.types) == ("abc", ["text", "text", "text", "done"])


async def test_a_follower_whose_published_steps_were_lost_reads_them_from_the_log(
    log: TokenLog, reading: None
) -> None:
    writer = Writer(log)
    reader = Reader(writer.generation)
    task = asyncio.ensure_future(reader.read())
    await asyncio.to_thread(writer.text, "a")
    with connect() as client:
        client.xadd(
            log_key(writer.generation), {"e": encode_event(1, "text", {"text": "b", "ids": [1]})}, id="2-0"
        )
    writer.seq = 2
    await asyncio.to_thread(writer.write, "done", state="complete")
    await asyncio.wait_for(task, 10)
    assert (reader.text, reader.types) == ("ab", ["text", "text", "done"])


async def test_a_reader_ahead_of_the_log_is_given_the_whole_text_again(log: TokenLog, reading: None) -> None:
    writer = Writer(log)
    writer.text("kept ")
    writer.write("done", state="complete")
    reader = Reader(writer.generation, text="kept and lost", seq=7, attempt=1)
    await asyncio.wait_for(reader.read(), 10)
    assert (reader.text, reader.types) == ("kept ", ["reset", "done"])


async def test_a_reader_whose_last_event_was_written_again_by_another_attempt_starts_over(
    log: TokenLog, reading: None
) -> None:
    writer = Writer(log, attempt=2)
    writer.text("the second attempt's words")
    writer.write("done", state="complete")
    reader = Reader(writer.generation, text="the first attempt's words", seq=1, attempt=1)
    await asyncio.wait_for(reader.read(), 10)
    assert (reader.text, reader.types) == ("the second attempt's words", ["reset", "done"])


async def test_a_live_follower_starts_over_when_the_log_lost_its_end_and_grows_again(
    log: TokenLog, broker: Valkey, reading: None
) -> None:
    writer = Writer(log)
    reader = Reader(writer.generation)
    task = asyncio.ensure_future(reader.read())
    for word in ("a", "b", "c"):
        await asyncio.to_thread(writer.text, word)
    while reader.seq < 3:
        await asyncio.sleep(0)
    with connect() as client:
        client.delete(log_key(writer.generation))
    second = Writer(log, writer.generation, attempt=2)
    for word in ("A", "B", "C", "D"):
        await asyncio.to_thread(second.text, word)
    await asyncio.to_thread(second.write, "done", state="complete")
    await asyncio.wait_for(task, 10)
    assert reader.text == "ABCD"
    assert reader.types[-1] == "done"


async def test_followers_come_through_a_broker_restart(log: TokenLog, broker: Valkey, reading: None) -> None:
    writer = Writer(log)
    reader = Reader(writer.generation)
    task = asyncio.ensure_future(reader.read())
    await asyncio.to_thread(writer.text, "before ")
    while reader.seq < 1:
        await asyncio.sleep(0)
    await asyncio.to_thread(broker.stop)
    await asyncio.to_thread(broker.start)
    await asyncio.to_thread(writer.text, "after")
    await asyncio.to_thread(writer.write, "done", state="complete")
    await asyncio.wait_for(task, 15)
    assert (reader.text, reader.types) == ("before after", ["text", "text", "done"])


# What happens next: the worker writes, another takes over, or the reader reads on for a while and goes away.
_happenings = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.text(max_size=4)),
        st.tuples(st.just("take over"), st.just("")),
        st.tuples(st.just("read"), st.integers(1, 4)),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(happenings=_happenings)
def test_any_sequence_of_disconnects_yields_the_final_text(
    log: TokenLog, happenings: list[tuple[str, str | int]]
) -> None:
    async def play() -> None:
        writer = Writer(log)
        reader = Reader(writer.generation)
        written = ""
        for what, how in happenings:
            if what == "write":
                writer.text(str(how))
                written += str(how)
            elif what == "take over":
                writer = writer.taken_over()
            elif writer.seq > reader.seq:
                await reader.read(min(int(how), writer.seq - reader.seq))
        writer.write("done", state="complete")
        await reader.read()
        await StepReader.current().close()
        assert reader.text == written
        assert reader.types.count("done") == 1
        assert "reset" not in reader.types

    asyncio.run(asyncio.wait_for(play(), 30))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=12),
    pieces=st.lists(st.text(max_size=3), max_size=40),
)
def test_a_reader_that_comes_and_goes_while_the_worker_writes_misses_nothing(
    log: TokenLog, lengths: list[int], pieces: list[str]
) -> None:
    async def play() -> None:
        writer = Writer(log)
        reader = Reader(writer.generation)

        def write_all() -> None:
            for piece in pieces:
                writer.text(piece)
            writer.write("done", state="complete")

        writing = asyncio.ensure_future(asyncio.to_thread(write_all))
        for length in lengths:
            if "done" not in reader.types:
                await reader.read(length)
        if "done" not in reader.types:
            await reader.read()
        await writing
        await StepReader.current().close()
        assert reader.text == "".join(pieces)

    asyncio.run(asyncio.wait_for(play(), 30))
