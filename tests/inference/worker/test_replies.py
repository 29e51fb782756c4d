"""What an inference worker makes of its engine's answers, also when the engine or the database gives way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import OperationalError

from inference import services, worker_services
from inference.engine.interface import Admission, InvalidGrammar, Request, StepOutput
from inference.models import Generation, ServedModel
from inference.parameters import JsonSchema, SamplingParams
from inference.signals import generation_ended
from inference.stream import Append, Event, encode_event, text_of
from inference.worker import WorkerHost
from tests.inference.worker.one_word import OneWordEngine, ended, ended_by, load
from tests.services import wait_until
from webapp.accounts.models import Workspace

pytestmark = pytest.mark.django_db(transaction=True)


def test_each_workspace_computes_under_a_salt_of_its_own(
    start: Callable[[], WorkerHost], workspace: Workspace, elsewhere: Workspace, model: ServedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    salts: dict[str, str] = {}
    submit = OneWordEngine.submit

    def noting(engine: OneWordEngine, request: Request, prepared: Any) -> Admission:
        salts[request.id] = request.cache_salt
        return submit(engine, request)

    monkeypatch.setattr(OneWordEngine, "submit", noting)
    host = start()
    asked = [
        services.start_generation(workspace=own, model=model, messages=[{"role": "user", "content": "Hello"}])
        for own in (workspace, elsewhere, workspace)
    ]
    for generation in asked:
        host.run(str(generation.id))
        ended(generation)
    first, other, again = (salts[str(generation.id)] for generation in asked)
    assert first == again == str(workspace.cache_salt)
    assert other == str(elsewhere.cache_salt) != first


def test_what_may_take_long_is_prepared_before_the_engines_own_thread_takes_it(
    start: Callable[[], WorkerHost], workspace: Workspace, model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = SamplingParams(logit_bias={5: 1.5}, response_format=JsonSchema('{"type": "object"}'))
    prepared: list[tuple[str, SamplingParams]] = []
    taken: list[Any] = []
    submit = OneWordEngine.submit

    def preparing(engine: OneWordEngine, request: Request) -> str:
        prepared.append((threading.current_thread().name, request.sampling))
        return "what was made of it"

    def taking(engine: OneWordEngine, request: Request, made: Any) -> Admission:
        taken.append(made)
        return submit(engine, request)

    monkeypatch.setattr(OneWordEngine, "prepare", preparing)
    monkeypatch.setattr(OneWordEngine, "submit", taking)
    generation = services.start_generation(
        workspace=workspace, model=model, messages=[{"role": "user", "content": "Hello"}], params=asked
    )
    start().run(str(generation.id))
    assert ended(generation).state == "complete"
    assert prepared == [(threading.current_thread().name, asked)]
    assert taken == ["what was made of it"]


def test_what_cannot_be_prepared_is_refused_with_its_reason_and_never_submitted(
    start: Callable[[], WorkerHost], ask: Callable[[], Generation], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(engine: OneWordEngine, request: Request) -> None:
        raise InvalidGrammar("The schema allows no text.")

    monkeypatch.setattr(OneWordEngine, "prepare", refusing)
    monkeypatch.setattr(OneWordEngine, "submit", None)
    generation = ended_by(start(), ask())
    assert generation.error_code == InvalidGrammar.code
    assert generation.error_message == "The schema allows no text."


def test_text_that_the_database_could_not_store_is_mended_in_the_row_and_in_the_log_alike(
    start: Callable[[], WorkerHost], ask: Callable[[], Generation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OneWordEngine, "text", "a\x00b")
    generation = ask()
    start().run(str(generation.id))
    assert ended(generation).text == "a\ufffdb"
    assert text_of(services.token_log().read(generation.id)) == "a\ufffdb"


def test_an_end_that_cannot_be_stored_is_a_failed_reply_and_not_one_that_hangs(
    start: Callable[[], WorkerHost], ask: Callable[[], Generation]
) -> None:
    def receiver(generation: Generation, **_: Any) -> None:
        if generation.state == "complete":
            raise RuntimeError("somebody's receiver is broken")

    generation_ended.connect(receiver)
    try:
        generation = ask()
        start().run(str(generation.id))
        assert (ended(generation).state, generation.error_code) == ("failed", "engine_error")
    finally:
        generation_ended.disconnect(receiver)


def test_one_that_cannot_be_prepared_has_an_end_in_its_log_behind_what_was_written_before(
    start: Callable[[], WorkerHost], ask: Callable[[], Generation]
) -> None:
    """Else its readers hear of it only when they look at the row of one that is silent."""
    generation, died = ask(), worker_services.register_worker(hostname="elsewhere", pid=1, serves=None)
    first = services.claim_generation(generation_id=generation.id, worker_id=died.id)
    assert first is not None
    written = encode_event(1, "text", {"text": "so far", "ids": [1, 2]})
    services.token_log().append([Append(str(generation.id), 1, [(1, written)])])
    services.release_generation(generation=first)
    Generation.objects.update(params={"temperature": "as a later version has it"})
    start().run(str(generation.id))
    assert (ended(generation).state, generation.error_code) == ("failed", "engine_error")
    assert (generation.text, generation.completion_tokens) == ("so far", 2)
    log = services.token_log().read(generation.id)
    assert [(event.type, event.attempt) for event in log] == [("text", 1), ("done", 2)]
    assert log[-1].data["error_code"] == "engine_error"


def test_an_engine_beyond_repair_ends_its_process_and_another_worker_answers(
    start: Callable[[], WorkerHost], ask: Callable[[], Generation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OneWordEngine, "breaks", True)
    generation = ask()
    host = start()
    host.run(str(generation.id))
    wait_until(lambda: getattr(host, "gave_up", False), "the worker to give up")
    other = ask()
    host.run(str(other.id))  # returns, and does not claim
    other.refresh_from_db()
    assert other.state == "queued"
    host.stop()
    monkeypatch.setattr(OneWordEngine, "breaks", False)
    worker_services.reap()
    generation.refresh_from_db()
    assert generation.state == "queued"
    start().run(str(generation.id))
    assert (ended(generation).text, generation.attempt) == ("word", 2)


def test_a_failed_step_ends_its_replies_and_the_next_one_is_answered(
    start: Callable[[], WorkerHost], ask: Callable[[], Generation], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(engine: OneWordEngine) -> list[StepOutput]:
        done, engine._requests = engine._requests, []
        return [StepOutput(id_, [], finish_reason="error", error="The step failed.") for id_ in done]

    host = start()
    with monkeypatch.context() as patch:
        patch.setattr(OneWordEngine, "step", failed)
        generation = ask()
        host.run(str(generation.id))
        assert (ended(generation).state, generation.error_message) == ("failed", "The step failed.")
    other = ask()
    host.run(str(other.id))
    assert ended(other).text == "word"


class HoldingEngine(OneWordEngine):
    """Its one token holds its text back until the end, as the beginning of a stop string does."""

    def step(self) -> list[StepOutput]:
        done, self._requests = self._requests, []
        return [
            output
            for id_ in done
            for output in (
                StepOutput(id_, [1], text=""),
                StepOutput(id_, [], text="held", finish_reason="stop"),
            )
        ]


def test_text_that_came_free_at_the_end_is_in_the_log_only_once_the_row_is_final(
    start: Callable[[], WorkerHost], ask: Callable[[], Generation], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a worker that dies in between leaves words in the log that the next attempt says again."""
    monkeypatch.setattr(f"{load.__module__}.OneWordEngine", HoldingEngine)
    tried, may_finish, finish = threading.Event(), threading.Event(), services.finish_generation

    def finish_later(**fields: Any) -> bool:
        tried.set()
        if not may_finish.is_set():
            raise OperationalError("not yet")
        return finish(**fields)

    monkeypatch.setattr(services, "finish_generation", finish_later)
    generation = ask()
    host = start()
    host.run(str(generation.id))
    assert tried.wait(10)
    host.publisher.flush()
    assert [
        event.data["text"] for event in services.token_log().read(generation.id) if event.type == "text"
    ] == [""]
    may_finish.set()
    assert ended(generation).text == "held"
    log = wait_until(lambda: _whole_log(generation), "the log to end")
    assert [event.type for event in log] == ["admitted", "text", "text", "done"]
    assert text_of(log) == "held"


def _whole_log(generation: Generation) -> list[Event]:
    log = services.token_log().read(generation.id)
    return log if log[-1].type == "done" else []
