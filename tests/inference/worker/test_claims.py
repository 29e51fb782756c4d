"""Whose reply an inference worker takes next, and that it takes none in vain."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from inference import services, worker_services
from inference.models import Generation, ServedModel, Worker
from inference.running import Slots
from inference.worker import WorkerHost
from tests.inference.worker.one_word import OneWordEngine, ended, in_thread
from tests.services import wait_until
from webapp.accounts.models import Workspace

pytestmark = pytest.mark.django_db(transaction=True)


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
    runner = threading.Thread(target=in_thread, args=(host.run, str(generation.id)))
    runner.start()
    assert claiming.wait(10)
    stopper = threading.Thread(target=in_thread, args=(host.stop,))
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
    runners = [threading.Thread(target=in_thread, args=(host.run, str(one.id))) for one in asked]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join(10)
    for one in asked:
        ended(one)
    assert not in_vain
