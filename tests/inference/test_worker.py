"""An inference worker when what it stands on gives way: the engine, the database, its own threads."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import InterfaceError, OperationalError, connections
from django.utils import timezone

from inference import services, worker_services
from inference.engine.interface import (
    Adapter,
    Admission,
    EngineFigures,
    InvalidAdapter,
    InvalidGrammar,
    Request,
    StepOutput,
)
from inference.lease import Lease
from inference.models import Generation, ServedModel, Worker
from inference.parameters import JsonSchema, SamplingParams
from inference.running import Slots
from inference.signals import generation_ended
from inference.stream import Append, Event, encode_event, text_of
from inference.worker import WorkerHost
from tests.services import wait_until
from webapp.accounts.models import Workspace

pytestmark = pytest.mark.django_db(transaction=True)


class OneWordEngine:
    """Answers each request with one text, in one step; or breaks in every step."""

    model_digest = "0" * 64
    text = "word"
    breaks = False

    def __init__(self) -> None:
        self._requests: list[str] = []

    def prepare(self, request: Request) -> Any:
        return None

    def read_adapter(self, folder: Path) -> Adapter:
        raise InvalidAdapter("It answers with one word, whatever is asked of it.")

    def add_adapter(self, name: str, adapter: Adapter) -> None:
        pass

    def submit(self, request: Request, prepared: Any = None) -> Admission:
        self._requests.append(request.id)
        return Admission(prompt_tokens=1, max_tokens=1, dropped_messages=0)

    def cancel(self, request_id: str) -> None:
        pass

    @property
    def has_work(self) -> bool:
        return bool(self._requests)

    def figures(self) -> EngineFigures:
        return EngineFigures()

    def close(self) -> None:
        pass

    def step(self) -> list[StepOutput]:
        if self.breaks:
            raise RuntimeError("the device is gone")
        done, self._requests = self._requests, []
        return [StepOutput(id_, [1], text=self.text, finish_reason="stop") for id_ in done]


def load(model: ServedModel, *, beside: object = None) -> OneWordEngine:
    return OneWordEngine()


@pytest.fixture(autouse=True)
def _quick(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.INFERENCE_ENGINE = f"{__name__}.load"
    settings.INFERENCE_LEASE_SECONDS = 1
    settings.STOP_GRACE_SECONDS = 0


@pytest.fixture
def model(db: None) -> ServedModel:
    return ServedModel.objects.create(
        name="demo", path="demo", digest="0", architecture="llama", context_length=100, parameters=1, size_bytes=1,
        is_default=True,
    )  # fmt: skip


@pytest.fixture
def start(model: ServedModel) -> Iterator[Callable[[], WorkerHost]]:
    hosts: list[WorkerHost] = []

    def start_host() -> WorkerHost:
        host = WorkerHost(give_up=lambda: setattr(host, "gave_up", True))
        hosts.append(host)
        host.start()
        return host

    yield start_host
    for host in hosts:
        host.stop()


@pytest.fixture
def ask(workspace: Workspace, model: ServedModel) -> Callable[[], Generation]:
    return lambda: services.start_generation(
        workspace=workspace, model=model, messages=[{"role": "user", "content": "Hello"}]
    )


def ended(generation: Generation) -> Generation:
    def row() -> Generation | None:
        generation.refresh_from_db()
        return generation if generation.is_finished else None

    return wait_until(row, "the generation to end")


def ended_by(host: WorkerHost, generation: Generation) -> Generation:
    host.run(str(generation.id))
    return ended(generation)


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


def test_who_comes_later_need_not_wait_behind_all_that_another_workspace_sent(
    start: Callable[[], WorkerHost], ask: Callable[[], Generation], elsewhere: Workspace, model: ServedModel
) -> None:
    running, waiting = ask(), ask()
    busy = Worker.objects.create(
        hostname="elsewhere", pid=1, lease_expires_at=timezone.now() + timedelta(minutes=1)
    )
    services.claim_generation(generation_id=running.id, worker_id=busy.id)
    late = services.start_generation(
        workspace=elsewhere, model=model, messages=[{"role": "user", "content": "Hello"}]
    )
    host = start()
    host.run(str(waiting.id))
    assert ended(late).state == "complete"
    waiting.refresh_from_db()
    assert waiting.state == "queued"
    host.run(str(late.id))
    assert ended(waiting).state == "complete"


def test_who_was_claimed_in_anothers_place_keeps_it(
    start: Callable[[], WorkerHost], ask: Callable[[], Generation], elsewhere: Workspace, model: ServedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Else what looks for claims that broke off halfway gives it back while it runs."""
    monkeypatch.setattr(OneWordEngine, "step", lambda engine: [])
    first, waiting = ask(), ask()
    host = start()
    host.run(str(first.id))
    late = services.start_generation(
        workspace=elsewhere, model=model, messages=[{"role": "user", "content": "Hello"}]
    )
    host.run(str(waiting.id))
    looked, claimed = threading.Semaphore(0), host.lease.claimed

    def looking() -> list[Generation]:
        looked.release()
        return claimed()

    monkeypatch.setattr(host.lease, "claimed", looking)
    assert looked.acquire(timeout=10)
    assert looked.acquire(timeout=10)  # the first look is over
    late.refresh_from_db()
    assert (late.state, late.attempt) == ("running", 1)


def test_a_place_is_not_given_up_because_another_worker_was_faster(
    start: Callable[[], WorkerHost], ask: Callable[[], Generation], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, mine = ask(), ask()
    busy = Worker.objects.create(
        hostname="elsewhere", pid=1, lease_expires_at=timezone.now() + timedelta(minutes=1)
    )
    services.claim_generation(generation_id=gone.id, worker_id=busy.id)
    turns = iter([gone.id])
    look = services.next_queued
    monkeypatch.setattr(services, "next_queued", lambda **among: next(turns, None) or look(**among))
    start().run(str(gone.id))
    assert ended(mine).state == "complete"


def test_a_reply_does_not_wait_for_a_title(
    start: Callable[[], WorkerHost], ask: Callable[[], Generation], workspace: Workspace, model: ServedModel
) -> None:
    title = services.start_generation(
        workspace=workspace, model=model, messages=[{"role": "user", "content": "Hello"}], purpose="title"
    )
    reply = ask()
    start().run(str(title.id))
    assert ended(reply).state == "complete"
    title.refresh_from_db()
    assert title.state == "queued"


def test_what_a_dead_worker_of_this_host_ran_goes_on_as_soon_as_the_next_one_starts(
    start: Callable[[], WorkerHost], ask: Callable[[], Generation], settings: Any
) -> None:
    generation, died = ask(), Lease()
    died.register(None)
    assert died.worker is not None
    services.claim_generation(generation_id=generation.id, worker_id=died.worker.id)
    del died  # and with it its file, as a process's files go with the process
    (settings.FLYWHEEL_HOME / "run" / "leases" / "of nobody").touch()
    host = start()
    host.loaded.wait(10)
    generation.refresh_from_db()
    assert (generation.state, generation.crashes) == ("queued", 1)


def test_a_worker_of_another_host_of_the_same_name_keeps_what_it_runs(
    start: Callable[[], WorkerHost], ask: Callable[[], Generation], pid_that_is_free: int
) -> None:
    generation = ask()
    other = worker_services.register_worker(hostname=socket.gethostname(), pid=pid_that_is_free, serves=None)
    services.claim_generation(generation_id=generation.id, worker_id=other.id)
    start().loaded.wait(10)
    generation.refresh_from_db()
    assert (generation.state, generation.worker) == ("running", other)


def test_a_worker_that_lives_keeps_what_it_runs_when_another_one_starts_on_its_host(
    start: Callable[[], WorkerHost], ask: Callable[[], Generation]
) -> None:
    generation, living = ask(), Lease()
    living.register(None)
    assert living.worker is not None
    services.claim_generation(generation_id=generation.id, worker_id=living.worker.id)
    start().loaded.wait(10)
    generation.refresh_from_db()
    assert (generation.state, generation.worker) == ("running", living.worker)
    living.end()


def test_a_worker_that_took_a_new_lease_is_known_to_its_host_by_that(
    start: Callable[[], WorkerHost], ask: Callable[[], Generation], settings: Any
) -> None:
    generation, renewed = ask(), Lease()
    renewed.register(None)
    old = renewed.worker
    Worker.objects.all().delete()  # as after a day without a word of it
    renewed.renew()
    assert old is not None
    assert renewed.worker is not None
    assert not (settings.FLYWHEEL_HOME / "run" / "leases" / str(old.id)).exists()
    services.claim_generation(generation_id=generation.id, worker_id=renewed.worker.id)
    del renewed  # and with it its file, as a process's files go with the process
    start().loaded.wait(10)
    generation.refresh_from_db()
    assert (generation.state, generation.crashes) == ("queued", 1)


@pytest.fixture
def pid_that_is_free() -> int:
    """Of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_the_worker_claimed_and_then_lost_is_given_back(
    start: Callable[[], WorkerHost], ask: Callable[[], Generation]
) -> None:
    host = start()
    host.loaded.wait(10)
    generation = ask()
    assert host.lease.worker is not None
    services.claim_generation(generation_id=generation.id, worker_id=host.lease.worker.id)
    wait_until(lambda: Generation.objects.get().state == "queued", "the row to be given back")
    host.run(str(generation.id))
    assert ended(generation).state == "complete"


def test_a_worker_starts_although_the_database_is_away_at_first(
    start: Callable[[], WorkerHost], ask: Callable[[], Generation], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, tries = worker_services.register_worker, []

    def register(**fields: Any) -> Worker:
        tries.append(1)
        if len(tries) == 1:
            raise OperationalError("the database is away")
        return usual(**fields)

    monkeypatch.setattr(worker_services, "register_worker", register)
    generation = ask()
    start().run(str(generation.id))
    assert ended(generation).state == "complete"


def test_the_lease_is_renewed_whatever_went_wrong_the_last_time(
    start: Callable[[], WorkerHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = start()
    host.loaded.wait(10)
    usual, failed = worker_services.renew_lease, threading.Event()

    def renew(*, worker: Worker) -> bool:
        if not failed.is_set():
            failed.set()
            raise InterfaceError("connection already closed")
        return usual(worker=worker)

    monkeypatch.setattr(worker_services, "renew_lease", renew)
    assert failed.wait(10)
    then = timezone.now()
    wait_until(
        lambda: Worker.objects.filter(lease_expires_at__gt=then + timedelta(seconds=1)).exists(),
        "the lease to be renewed",
        10,
    )


def test_a_claim_under_way_when_the_worker_stops_is_handed_over_and_no_crash(
    start: Callable[[], WorkerHost], ask: Callable[[], Generation], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, generation, claim = start(), ask(), services.claim_generation
    claiming, may_claim = threading.Event(), threading.Event()

    def claim_late(**fields: Any) -> Generation | None:
        claiming.set()
        assert may_claim.wait(10)
        return claim(**fields)

    monkeypatch.setattr(services, "claim_generation", claim_late)
    runner = threading.Thread(target=_in_thread, args=(host.run, str(generation.id)))
    runner.start()
    assert claiming.wait(10)
    stopper = threading.Thread(target=_in_thread, args=(host.stop,))
    stopper.start()
    host._engine.join(10)
    may_claim.set()
    stopper.join(10)
    runner.join(10)
    generation.refresh_from_db()
    assert (generation.state, generation.attempt) == ("queued", 1)
    worker_services.reap()
    generation.refresh_from_db()
    assert (generation.state, generation.crashes) == ("queued", 0)


def test_a_place_that_becomes_free_while_the_worker_stops_is_not_taken(
    start: Callable[[], WorkerHost], ask: Callable[[], Generation], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, generation, take = start(), ask(), Slots.take
    host.loaded.wait(10)

    def take_at_the_last_moment(slots: Slots, generation_id: str, *, timeout: float) -> bool:
        placed = take(slots, generation_id, timeout=timeout)
        host.leaving.set()
        return placed

    monkeypatch.setattr(Slots, "take", take_at_the_last_moment)
    host.run(str(generation.id))
    generation.refresh_from_db()
    assert (generation.state, generation.attempt) == ("queued", 0)


def test_tasks_at_once_claim_a_reply_each_and_none_in_vain(
    start: Callable[[], WorkerHost], ask: Callable[[], Generation], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, asked = start(), [ask() for _ in range(4)]
    host.loaded.wait(10)
    look, claim, in_vain = services.next_queued, services.claim_generation, []
    all_look = threading.Barrier(len(asked))

    def look_together(**fields: Any) -> Any:
        found = look(**fields)
        with contextlib.suppress(threading.BrokenBarrierError):
            all_look.wait(0.3)
        return found

    def claim_noting(**fields: Any) -> Generation | None:
        claimed = claim(**fields)
        if claimed is None:
            in_vain.append(fields)
        return claimed

    monkeypatch.setattr(services, "next_queued", look_together)
    monkeypatch.setattr(services, "claim_generation", claim_noting)
    runners = [threading.Thread(target=_in_thread, args=(host.run, str(one.id))) for one in asked]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join(10)
    for one in asked:
        ended(one)
    assert not in_vain


class WaitingEngine(OneWordEngine):
    """Answers when it is told to."""

    may_answer = threading.Event()

    def __init__(self) -> None:
        super().__init__()
        self._cancelled: set[str] = set()

    def cancel(self, request_id: str) -> None:
        self._cancelled.add(request_id)

    def step(self) -> list[StepOutput]:
        if self.may_answer.wait(0.01):
            return super().step()
        ended = [id_ for id_ in self._requests if id_ in self._cancelled]
        self._requests = [id_ for id_ in self._requests if id_ not in ended]
        self._cancelled.clear()
        return [StepOutput(id_, [], finish_reason="cancelled") for id_ in ended]


def test_a_worker_that_lost_its_lease_may_come_upon_the_same_reply_again(
    start: Callable[[], WorkerHost], ask: Callable[[], Generation], monkeypatch: pytest.MonkeyPatch
) -> None:
    WaitingEngine.may_answer.clear()
    monkeypatch.setattr(f"{__name__}.OneWordEngine", WaitingEngine)
    host, generation = start(), ask()

    def queued_again(attempt: int) -> bool:
        generation.refresh_from_db()
        return (generation.state, generation.attempt) == ("queued", attempt)

    host.run(str(generation.id))
    generation.refresh_from_db()
    assert services.release_generation(generation=generation)  # as the reaper does
    host.run(str(generation.id))
    wait_until(lambda: queued_again(2), "the second attempt to be handed over")
    WaitingEngine.may_answer.set()
    host.run(str(generation.id))
    assert (ended(generation).state, generation.text, generation.attempt) == ("complete", "word", 3)


def test_a_worker_that_takes_long_to_hand_over_keeps_its_lease_meanwhile(
    start: Callable[[], WorkerHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, renewed = start(), []
    host.loaded.wait(10)

    def flush_slowly() -> None:
        then = timezone.now() + timedelta(seconds=1)  # the whole lease as it is now
        alive = Worker.objects.filter(lease_expires_at__gt=then)
        renewed.append(wait_until(alive.exists, "the lease to be renewed", 10))

    monkeypatch.setattr(host.publisher, "flush", flush_slowly)
    host.stop()
    assert renewed == [True]
    # The database's clock, as a worker carries it on, may be a little ahead of ours.
    soon = timezone.now() + timedelta(seconds=0.5)
    assert not Worker.objects.filter(lease_expires_at__gt=soon).exists()


def _in_thread(call: Callable[..., Any], *arguments: Any) -> None:
    try:
        call(*arguments)
    finally:
        connections.close_all()


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
    monkeypatch.setattr(f"{__name__}.OneWordEngine", HoldingEngine)
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
