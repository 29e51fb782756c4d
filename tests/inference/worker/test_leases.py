"""An inference worker's lease: of a worker that died, that lives, that lost it, and while the database is away."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import InterfaceError, OperationalError
from django.utils import timezone

from inference import services, worker_services
from inference.engine.interface import StepOutput
from inference.lease import Lease
from inference.models import Generation, Worker
from inference.worker import WorkerHost
from tests.inference.worker.one_word import OneWordEngine, ended, load
from tests.services import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


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
    monkeypatch.setattr(f"{load.__module__}.OneWordEngine", WaitingEngine)
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
