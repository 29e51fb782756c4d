"""A job under its worker, paused, cancelled, or with its worker told to end: saved, in time, and resumed."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import OperationalError
from pytest_django.fixtures import Settings

from tests.services import wait_until
from tests.training.jobs.conftest import Start
from tests.training.jobs.watched import SPEC, WHOLE, Execute, State, Trainer, at_step, now, rows
from training import (
    job_life,
    job_services,
    lease_guard,
    patience,
    storage,
    tasks,
    trainer_process,
    training_worker,
)
from training.job_page import parts
from training.models import Job
from training.trainer_process import marked
from training.training_worker import run_next
from webapp.accounts.models import User
from webapp.ops import start as start_process

pytestmark = pytest.mark.django_db


def test_a_job_is_paused_saved_and_resumed(start: Start, trainer: Trainer, alice: User) -> None:
    job = start(spec=SPEC)
    trainer("slow", meanwhile=at_step(5, lambda job: job_services.pause_job(job=job, user=alice)))
    run_next()
    assert (now(job).state, now(job).wish, now(job).step) == (State.PAUSED, "", 5)
    assert now(job).checkpoints.filter(step=5, is_kept=True).exists()
    run_next()
    assert now(job).state == State.PAUSED
    job_services.resume_job(job=job, user=alice)
    trainer()
    run_next()
    assert now(job).state == State.SUCCEEDED
    assert rows(now(job)) == WHOLE


def test_a_cancelled_trainer_that_does_not_hear_is_gone_in_time_with_all_it_started(
    start: Start,
    trainer: Trainer,
    alice: User,
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: Execute,
) -> None:
    assert patience.CANCEL_SECONDS + 2 < 15
    monkeypatch.setattr(patience, "CANCEL_SECONDS", 0.2)
    seen: list[int] = []

    def cancel(job: Job) -> None:
        seen.extend(process.pid for process in marked(str(job.id)))
        job_services.cancel_job(job=job, user=alice)

    job = start(spec=SPEC)
    trainer("deaf", meanwhile=at_step(5, cancel))
    with django_capture_on_commit_callbacks(execute=True):
        run_next()
    assert now(job).state == State.CANCELLED
    assert len(seen) == 2
    assert not marked(str(job.id))
    assert now(job).events.latest("number").message == "It was cancelled. Step 4 is kept for a while."


def test_a_pause_waits_for_what_takes_longer_to_save_than_a_cancel_would(
    start: Start, trainer: Trainer, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "CANCEL_SECONDS", 0.2)
    monkeypatch.setattr(patience, "SILENT_SECONDS", 0.7)  # it shows that it gets on
    job, seen = start(spec=SPEC), set[str]()
    pause = at_step(5, lambda job: job_services.pause_job(job=job, user=alice))

    def look(job: Job) -> None:
        pause(job)
        seen.add(parts(now(job))["state"])

    trainer("slow,lingers", meanwhile=look)
    run_next()
    assert (now(job).state, job_life.last_saved(job)) == (State.PAUSED, 5)
    assert any("What it has learnt is being saved." in page for page in seen)
    assert "is being saved" not in parts(now(job))["state"]
    said = now(job).events.latest("number").message
    assert said == "It is paused; what it had learnt is saved."
    assert "It goes on from step" not in parts(now(job))["state"]


def test_a_pause_that_was_not_saved_says_from_which_step_it_goes_on_and_does(
    start: Start, trainer: Trainer, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "SILENT_SECONDS", 0.3)
    job = start(spec=SPEC)
    trainer("deaf", meanwhile=at_step(5, lambda job: job_services.pause_job(job=job, user=alice)))
    run_next()
    assert (now(job).state, now(job).step) == (State.PAUSED, 5)
    said = now(job).events.latest("number").message
    assert said == "It is paused. Not all was saved in time: it goes on from step 4."
    assert "It goes on from step 4, the last that is saved." in parts(now(job))["state"]
    job_services.resume_job(job=job, user=alice)
    trainer()
    run_next()
    assert rows(now(job)) == WHOLE


@pytest.mark.parametrize(("wish", "state"), [("cancel", State.CANCELLED), ("stop", State.PAUSED)])
def test_a_pause_that_is_being_saved_is_cut_short_by_a_cancel_and_by_the_end_of_its_worker(
    wish: str,
    state: str,
    start: Start,
    trainer: Trainer,
    alice: User,
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
) -> None:
    monkeypatch.setattr(patience, "CANCEL_SECONDS", 0.2)
    settings.STOP_GRACE_SECONDS = 0
    looks = 0

    def look(job: Job) -> None:
        nonlocal looks
        looks += job.step == 5
        if looks == 1:
            job_services.pause_job(job=job, user=alice)
        elif looks == 3 and wish == "cancel":
            job_services.cancel_job(job=job, user=alice)
        elif looks == 3:
            tasks._stop()

    job = start(spec=SPEC)
    trainer("deaf", meanwhile=look)
    began = time.monotonic()
    run_next()
    assert time.monotonic() - began < 15
    assert now(job).state == state


def test_a_worker_that_is_stopped_has_as_long_to_save_as_its_process_may_take(
    start: Start, trainer: Trainer, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    for grace in (1, 25, 120):
        settings.STOP_GRACE_SECONDS = grace
        needed = patience.seconds("release") + trainer_process.ENDING_SECONDS + 1
        assert start_process.site()["training"].stop_seconds > needed
    settings.STOP_GRACE_SECONDS = 5
    monkeypatch.setattr(patience, "CANCEL_SECONDS", 0.2)
    job = start(spec=SPEC)
    trainer("slow,lingers", meanwhile=at_step(5, lambda _: tasks._stop()))
    run_next()
    assert (now(job).state, job_life.last_saved(job)) == (State.QUEUED, 5)


@pytest.mark.parametrize("does", ["slow", "deaf"])
def test_a_worker_that_cannot_renew_its_lease_has_its_trainer_gone_before_it_is_over(
    does: str, start: Start, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another host may have the job then, and the same folder. The database does not even say that it is away."""
    monkeypatch.setattr(training_worker, "close_old_connections", lambda: None)  # the test's is among them
    monkeypatch.setattr(job_life, "LEASE", timedelta(seconds=6))
    monkeypatch.setattr(lease_guard, "CANCEL_SECONDS", 1.0)
    monkeypatch.setattr(lease_guard, "ENDING_SECONDS", 3.0)
    renewed_at = 0.0

    def look(job: Job) -> None:
        nonlocal renewed_at
        if job.step < 5:
            renewed_at = time.monotonic()
            return
        wait_until(lambda: not marked(str(job.id)), "the end of the trainer", seconds=10)
        raise OperationalError("the server is away")

    job = start(spec=SPEC)
    trainer(does, meanwhile=look)
    run_next()
    assert time.monotonic() - renewed_at < 6
    assert not marked(str(job.id))
    assert (storage.job_folder(job) / "checkpoints" / "step-00000005").exists() == (does == "slow")
    assert now(job).state == State.RUNNING  # until the reaper finds that its lease is over


def test_of_several_trainers_each_is_told_to_save_and_not_who_started_them(
    start: Start, trainer: Trainer, alice: User, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun kills in its own time those it has passed a signal on to."""
    settings.TRAINING_PROCESSES = 2
    launcher = (
        "import os, signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: os._exit(1))\n"
        "sys.exit(subprocess.call(sys.argv[1:]))"
    )
    job = start(spec=SPEC)
    trainer("slow", meanwhile=at_step(5, lambda job: job_services.pause_job(job=job, user=alice)))
    program = trainer_process.command(Path("spec.json"), 1)[:-1]
    command = [sys.executable, "-c", launcher, *program]
    monkeypatch.setattr(trainer_process, "command", lambda spec, processes: [*command, str(spec)])
    run_next()
    assert (now(job).state, job_life.last_saved(job)) == (State.PAUSED, 5)


def test_a_worker_that_is_stopped_has_the_job_saved_and_gives_it_back(start: Start, trainer: Trainer) -> None:
    job = start(spec=SPEC)
    trainer("slow", meanwhile=at_step(5, lambda _: tasks._stop()))
    run_next()
    assert (now(job).state, now(job).crashes, now(job).step) == (State.QUEUED, 0, 5)
    run_next()  # takes no other any more
    assert now(job).state == State.QUEUED
    training_worker.stopping.clear()
    trainer()
    run_next()
    assert rows(now(job)) == WHOLE
