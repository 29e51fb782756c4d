"""The publisher: what the engine emits reaches the log whole, in few entries, whatever the broker does meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from inference import emission as module
from inference.emission import _LEAST_REST, _MAX_APPENDS, Emission, NewText, Publisher
from inference.stream import STEPS_CHANNEL, Append, TokenLog, decode_step, encode_event, text_of
from tests.services import wait_until


class SlowLog(TokenLog):
    """While it appends, everything else grows: a busy engine beside a busy broker."""

    def __init__(self) -> None:
        super().__init__()
        self.grow: Callable[[], None] = lambda: None
        self.calls = 0

    def append(self, appends: Any) -> list[int]:
        answers = super().append(appends)
        self.calls += 1
        if self.calls < 6:
            self.grow()
        return answers


def test_of_many_replies_none_waits_for_others_that_keep_growing() -> None:
    log = SlowLog()
    publisher = Publisher(log)
    emissions = [Emission(f"generation-{n}", 1, []) for n in range(_MAX_APPENDS + 50)]
    calls_when_logged: dict[str, int] = {}

    def grow() -> None:
        for emission in emissions:
            if emission.logged or log.read(emission.generation_id):
                calls_when_logged.setdefault(emission.generation_id, log.calls)
        publisher.emit_texts([NewText(emission, "x", [1]) for emission in emissions])

    log.grow = grow
    publisher.emit_texts([NewText(emission, "x", [1]) for emission in emissions])
    publisher.start()
    publisher.flush()
    publisher.stop()
    assert max(calls_when_logged.values()) <= 2
    assert len(calls_when_logged) == len(emissions)
    assert all(text_of(log.read(emission.generation_id)) == "x" * 6 for emission in emissions)


def test_what_comes_while_the_broker_is_busy_is_one_entry_and_nothing_is_lost() -> None:
    log = TokenLog()
    publisher, emission = Publisher(log), Emission("generation", 1, [])
    publisher.emit(emission, "admitted", {"prompt_tokens": 1})
    for n in range(5):
        publisher.emit_texts([NewText(emission, f"{n} ", [n])])
    publisher.emit(emission, "done", {"state": "complete"}, finished=True)
    publisher.start()
    publisher.flush()
    publisher.stop()
    events = log.read("generation")
    assert [(event.seq, event.type) for event in events] == [(1, "admitted"), (2, "text"), (3, "done")]
    assert events[1].data == {"text": "0 1 2 3 4 ", "ids": [0, 1, 2, 3, 4]}


def test_what_the_broker_lost_is_logged_again() -> None:
    log = TokenLog()
    publisher, emission = Publisher(log), Emission("generation", 1, [])
    publisher.start()
    publisher.emit_texts([NewText(emission, "before ", [1])])
    publisher.flush()
    log.connection.flushall()
    publisher.emit_texts([NewText(emission, "after", [2])])
    publisher.flush()
    publisher.stop()
    assert text_of(log.read("generation")) == "before after"


def test_a_step_of_which_a_part_is_in_the_log_already_is_published_without_it() -> None:
    log = TokenLog()
    entries = [(n + 1, encode_event(1, "text", {"text": str(n), "ids": [n]})) for n in range(3)]
    log.append([Append("generation", 1, entries[:1])])
    with log.connection.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(STEPS_CHANNEL)
        wait_until(lambda: pubsub.get_message() is None and pubsub.subscribed, "the subscription")
        log.append([Append("generation", 1, entries)])
        message = wait_until(lambda: pubsub.get_message(timeout=1), "the step")
    [(_, events)] = decode_step(message["data"], {"generation"})
    assert [event.seq for event in events] == [2, 3]


def test_the_publisher_outlives_an_error_nobody_thought_of() -> None:
    class Surprising(TokenLog):
        surprised = False

        def append(self, appends: Any) -> list[int]:
            if not self.surprised:
                self.surprised = True
                raise ValueError("nobody thought of this")
            return super().append(appends)

    log = Surprising()
    publisher = Publisher(log)
    publisher.start()
    emission = Emission("generation", 1, [])
    publisher.emit_texts([NewText(emission, "x", [1])])
    publisher.flush()
    publisher.stop()
    assert text_of(log.read("generation")) == "x"
    assert log.append([Append("generation", 1, [])]) == [1]


def test_what_comes_within_a_frame_of_the_screen_goes_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time costs the model that makes the next word a part of its time."""
    log = TokenLog()
    publisher, emission = Publisher(log), Emission("generation", 1, [])
    rests: list[float] = []

    def rest(*, at_least: float, at_most: float) -> None:
        rests.append(at_most)
        if len(rests) == 1:
            publisher.emit_texts([NewText(emission, "two ", [2])])
            publisher.emit_texts([NewText(emission, "three", [3])])

    monkeypatch.setattr(publisher, "_rest", rest)
    publisher.emit_texts([NewText(emission, "one ", [1])])
    publisher.start()
    wait_until(lambda: len(rests) == 2, "two rounds")
    publisher.stop()
    assert [event.data["text"] for event in log.read("generation")] == ["one ", "two three"]
    assert min(rests) >= _LEAST_REST >= 1 / 60


def test_the_more_replies_there_are_the_longer_it_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    log = TokenLog()
    publisher = Publisher(log)
    rests: list[float] = []
    monkeypatch.setattr(publisher, "_rest", lambda at_least, at_most: rests.append(at_most))
    publisher.emit_texts([NewText(Emission(f"generation-{n}", 1, []), "word", [1]) for n in range(12)])
    publisher.start()
    publisher.flush()
    publisher.stop()
    assert 0.03 < rests[0] <= 0.05


def test_the_end_of_a_reply_does_not_wait_for_the_rest_after_its_last_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LEAST_REST", 60.0)
    monkeypatch.setattr(module, "_MAX_REST", 60.0)
    log = TokenLog()
    publisher, emission = Publisher(log), Emission("generation", 1, [])
    publisher.start()
    publisher.emit_texts([NewText(emission, "last words", [1])])
    publisher.flush()
    publisher.emit(emission, "done", {"state": "complete"}, finished=True)
    publisher.flush()
    assert [event.type for event in log.read("generation")] == ["text", "done"]
    publisher.stop()
