"""Replies when a clock is set: none is ended, none is handed over, and a dead worker is still noticed."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from pytest_django.fixtures import Settings

from inference import services, worker_services
from inference.models import Generation, ServedModel, Worker
from inference.running import Running
from tests.clocks import HOUR, SetClock, set_clock, time_passes  # noqa: F401
from webapp.accounts.models import Workspace
from webapp.core import clock

pytestmark = pytest.mark.django_db(transaction=True)


def start(workspace: Workspace, model: ServedModel) -> Generation:
    return services.start_generation(
        workspace=workspace, model=model, messages=[{"role": "user", "content": "Hello"}], seed=7
    )


def claimed(generation: Generation, by: Worker) -> Generation:
    mine = services.claim_generation(generation_id=generation.id, worker_id=by.id)
    assert mine is not None
    return mine


@pytest.mark.parametrize("by", [HOUR, -HOUR], ids=["forward", "back"])
def test_a_clock_that_is_set_by_an_hour_ends_no_reply_and_hands_none_over(
    workspace: Workspace,
    model: ServedModel,
    by: timedelta,
    set_clock: SetClock,  # noqa: F811
    settings: Settings,
) -> None:
    worker = worker_services.register_worker(hostname="here", pid=1, serves=None)
    running, waiting = claimed(start(workspace, model), worker), start(workspace, model)
    set_clock(by)
    worker_services.reap()  # before the worker had its turn to say that it lives
    assert worker_services.renew_lease(worker=worker)
    worker_services.reap()
    whole = timedelta(seconds=settings.INFERENCE_DEADLINE_SECONDS)
    for generation in (running, waiting):
        generation.refresh_from_db()
        assert abs(generation.deadline - clock.now() - whole) < timedelta(seconds=5)
        assert generation.sent_at <= clock.now()
    assert (running.state, running.attempt, running.crashes) == ("running", 1, 0)
    assert waiting.state == "queued"
    assert Worker.objects.alive().get() == worker


@pytest.mark.parametrize("by", [HOUR, -HOUR], ids=["forward", "back"])
def test_a_worker_that_dies_while_the_clock_is_set_is_noticed_within_its_lease(
    workspace: Workspace,
    model: ServedModel,
    by: timedelta,
    set_clock: SetClock,  # noqa: F811
    time_passes: SetClock,  # noqa: F811
    settings: Settings,
) -> None:
    running = claimed(
        start(workspace, model), worker_services.register_worker(hostname="here", pid=1, serves=None)
    )
    set_clock(by)
    worker_services.reap()
    time_passes(timedelta(seconds=settings.INFERENCE_LEASE_SECONDS + 1))
    worker_services.reap()
    running.refresh_from_db()
    assert (running.state, running.crashes) == ("queued", 1)


def test_a_reply_that_is_claimed_just_after_the_clock_was_set_has_its_whole_time(
    workspace: Workspace,
    model: ServedModel,
    set_clock: SetClock,  # noqa: F811
    settings: Settings,
) -> None:
    generation, worker = (
        start(workspace, model),
        worker_services.register_worker(hostname="here", pid=1, serves=None),
    )
    set_clock(HOUR)
    running = Running.resumed(claimed(generation, worker), [])
    assert running.deadline - time.monotonic() > settings.INFERENCE_DEADLINE_SECONDS - 5


def test_a_host_whose_own_clock_is_wrong_goes_by_the_databases(
    workspace: Workspace, model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import connection
    from django.utils import timezone

    if connection.vendor == "sqlite":
        pytest.skip("one host, one clock")
    right = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: right - HOUR)
    worker = worker_services.register_worker(hostname="elsewhere", pid=1, serves=None)
    assert abs(clock.now() - right) < timedelta(seconds=30)
    assert worker.lease_expires_at > right
    assert start(workspace, model).deadline > right
