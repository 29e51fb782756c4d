"""A job under its worker, with a scripted trainer: watched, killed, stopped, taken over; nothing is left running."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from celery import current_app
from django.db import OperationalError, connections
from django.utils import timezone
from pytest_django.fixtures import Settings

from inference import model_storage
from inference.model_services import Prepared
from inference.models import ServedModel
from tests.services import wait_until
from tests.training.jobs import scripted_trainer
from tests.training.jobs.conftest import Start, make_version
from tests.training.jobs.scripted_trainer import STEPS, loss
from training import (
    job_life,
    job_services,
    lease_guard,
    patience,
    storage,
    tail,
    tasks,
    trainer_limits,
    trainer_process,
    training_worker,
)
from training.job_page import parts
from training.job_words import next_step
from training.models import Job
from training.publishing import Publication
from training.trainer_process import TrainerProcess, marked
from training.training_worker import run_next
from webapp.accounts.models import User, Workspace
from webapp.core.request_ids import on_behalf_of
from webapp.ops import start as start_process

pytestmark = pytest.mark.django_db
State = Job.State
Trainer = Callable[..., None]
Execute = Callable[..., Any]
SPEC = {"prompts": ["Hi?"]}


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch, base: ServedModel) -> Iterator[Trainer]:
    """Says what trainers do, and what happens each time that their worker looks."""
    watch: list[Callable[[Job], None]] = []
    take_in = tail.take_in

    def looking(job: Job, folder: Path) -> str | None:
        for look in watch:
            look(job)
        return take_in(job, folder)

    def trainer(does: str = "", *, meanwhile: Callable[[Job], None] | None = None) -> None:
        watch[:] = [meanwhile] if meanwhile else []
        program = [sys.executable, scripted_trainer.__file__, does or "works"]
        monkeypatch.setattr(trainer_process, "command", lambda spec, processes: [*program, str(spec)])

    monkeypatch.setattr(training_worker, "prepare", lambda job, folder, checkpoints: None)
    monkeypatch.setattr(training_worker, "_TICK", 0.02)
    monkeypatch.setattr(tail, "take_in", looking)
    yield trainer
    training_worker.stopping.clear()


def now(job: Job) -> Job:
    return Job.objects.get(id=job.id)


def at_step(step: int, do: Callable[[Job], object]) -> Callable[[Job], None]:
    """`do`, once the job has come that far."""
    done: list[bool] = []

    def look(job: Job) -> None:
        if job.step >= step and not done:
            done.append(True)
            do(job)

    return look


def rows(job: Job) -> dict[str, Any]:
    """What pages show of how a job went."""
    return {
        "losses": list(job.measurements.filter(kind="train").values_list("step", "loss")),
        "validation": list(job.measurements.filter(kind="validation").values_list("step", "loss")),
        "samples": list(job.samples.values_list("step", "prompt", "answer")),
        "refused": job.events.filter(code="refused").count(),
        "chosen": job.chosen,
        "data": job.data,
    }


WHOLE = {
    "losses": [(step, loss(step)) for step in range(1, STEPS + 1)],
    "validation": [(0, 5.0), (4, loss(4) + 0.1), (8, loss(8) + 0.1)],
    "samples": [(0, "Hi?", "(base)"), (4, "Hi?", "(step 4)"), (8, "Hi?", "(step 8)")],
    "refused": 1,
    "chosen": [{"knob": "batch_size", "value": 4, "why": "24 examples."}],
    "data": {"examples": 24, "trained_tokens": 100},
}


def test_logs_of_a_job_and_of_its_trainer_name_the_request_that_began_it(
    start: Start, trainer: Trainer, caplog: pytest.LogCaptureFixture
) -> None:
    with on_behalf_of("order-7"):
        job = start(spec=SPEC)
    trainer()
    caplog.set_level("INFO")
    run_next()
    heading = json.loads((storage.job_folder(job) / "trainer.log").read_text().splitlines()[0])
    assert (heading["event"], heading["job"], heading["request_id"]) == (
        "trainer_started", str(job.id), "order-7",
    )  # fmt: skip
    said = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
    codes = {line["code"] for line in said if line.get("request_id") == "order-7"}
    assert {"validating", "started", "succeeded"} <= codes


def test_what_a_trainer_writes_is_in_rows_when_it_has_succeeded(
    start: Start, trainer: Trainer, django_capture_on_commit_callbacks: Execute
) -> None:
    job = start(spec=SPEC)
    trainer()
    with django_capture_on_commit_callbacks(execute=True):
        run_next()
    job = now(job)
    assert (job.state, job.step, job.steps, job.percent) == (State.SUCCEEDED, STEPS, STEPS, 100)
    assert (job.best_step, job.base_validation_loss, job.seconds, job.memory) == (8, 5.0, STEPS * 0.5, 1000)
    assert rows(job) == WHOLE
    assert list(job.checkpoints.values_list("step", "validation_loss", "is_kept")) == [
        (4, loss(4) + 0.1, False), (8, loss(8) + 0.1, False),
    ]  # fmt: skip
    assert not (storage.job_folder(job) / "checkpoints").exists()
    codes = list(job.events.values_list("code", flat=True))
    assert codes == ["created", "validating", "started", "refused", "checkpoint", "checkpoint", "succeeded"]
    lines = storage.result_path(job.id).read_text().splitlines()
    assert job.result_file.size == storage.result_path(job.id).stat().st_size
    assert lines[0].startswith("step,train_loss,train_accuracy,valid_loss,")
    assert lines[1].startswith("0,,,5.0,")
    assert lines[5].startswith(f"4,{loss(4)},,{loss(4) + 0.1},")


def test_a_model_is_copied_in_no_transaction_and_its_job_is_kept_alive_meanwhile(
    start: Start, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, mine, looks = start(spec=SPEC), connections["default"], threading.Event()
    around = len(mine.savepoint_ids)  # a test is a transaction itself
    trainer(meanwhile=lambda _: looks.set())

    def prepare(*_: object) -> None:
        looks.clear()
        assert looks.wait(10)
        # Not but for the moments in which the worker looks.
        wait_until(lambda: len(mine.savepoint_ids) == around, "the end of the transaction")

    monkeypatch.setattr(training_worker, "prepare", prepare)
    run_next()
    assert now(job).state == State.SUCCEEDED


def test_what_was_copied_of_a_model_that_cannot_be_added_is_removed(
    start: Start, trainer: Trainer, base: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = start(spec=SPEC)
    trainer()
    copied = Prepared(ServedModel(name=base.name, path="trained/copied"))
    folder = model_storage.located("trained/copied")
    folder.mkdir(parents=True)
    monkeypatch.setattr(training_worker, "prepare", lambda *_: Publication(copied, []))
    run_next()
    job = now(job)
    assert (job.state, job.error_code, job.model) == (State.FAILED, "bad_model_name", None)
    assert not folder.exists()


def test_events_and_measurements_are_numbered_once_and_in_order(start: Start, trainer: Trainer) -> None:
    job = start(spec=SPEC)
    trainer("dies")
    run_next()
    run_next()
    job = now(job)
    events = list(job.events.values_list("number", flat=True))
    measured = list(job.measurements.order_by("number").values_list("number", flat=True))
    assert len({*events, *measured}) == len(events) + len(measured)
    assert max(*events, *measured) == job.last_event
    by_step = job.measurements.filter(kind="train").order_by("step").values_list("number", flat=True)
    assert list(by_step) == sorted(by_step)


def test_a_trainer_that_is_killed_goes_on_from_its_last_checkpoint(start: Start, trainer: Trainer) -> None:
    job = start(spec=SPEC)
    trainer("dies")
    run_next()
    assert (now(job).state, now(job).crashes, now(job).step) == (State.QUEUED, 1, 5)
    run_next()
    job = now(job)
    assert (job.state, job.attempt, job.crashes) == (State.SUCCEEDED, 2, 0)
    assert job.events.get(code="resumed").data == {"step": 4, "exact": True}
    assert rows(job) == WHOLE
    assert job.seconds == STEPS * 0.5


def test_a_trainer_that_always_dies_before_it_got_on_is_given_up(start: Start, trainer: Trainer) -> None:
    job = start(spec=SPEC)
    trainer("dies-always")
    for _ in range(5):
        run_next()
    job = now(job)
    assert (job.state, job.attempt, job.error_code) == (State.FAILED, 3, "worker_lost")


def test_a_trainer_that_always_dies_having_saved_the_same_step_again_is_given_up(
    start: Start, trainer: Trainer
) -> None:
    job = start(spec=SPEC)
    trainer("dies-saving")
    for _ in range(6):
        run_next()
    job = now(job)
    assert (job.state, job.attempt, job.error_code) == (State.FAILED, 3, "worker_lost")
    assert job.events.filter(code="checkpoint").count() == 1


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
    job = start(spec=SPEC)
    trainer("slow,lingers", meanwhile=at_step(5, lambda job: job_services.pause_job(job=job, user=alice)))
    run_next()
    assert (now(job).state, job_life.last_saved(job)) == (State.PAUSED, 5)
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
            tasks._stop_training()

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
    trainer("slow,lingers", meanwhile=at_step(5, lambda _: tasks._stop_training()))
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
    trainer("slow", meanwhile=at_step(5, lambda _: tasks._stop_training()))
    run_next()
    assert (now(job).state, now(job).crashes, now(job).step) == (State.QUEUED, 0, 5)
    run_next()  # takes no other any more
    assert now(job).state == State.QUEUED
    training_worker.stopping.clear()
    trainer()
    run_next()
    assert rows(now(job)) == WHOLE


def test_a_task_delivered_twice_does_nothing_more(start: Start, trainer: Trainer) -> None:
    job = start(spec=SPEC)
    trainer(meanwhile=at_step(1, lambda _: tasks.train()))
    tasks.train()
    tasks.train()
    assert (now(job).state, now(job).attempt) == (State.SUCCEEDED, 1)


def test_a_job_whose_worker_fell_silent_goes_to_another_and_the_first_writes_nothing_more(
    start: Start, trainer: Trainer
) -> None:
    job = start(spec=SPEC)
    taken: list[Job | None] = []

    def taken_over(job: Job) -> None:
        job_life.reap()
        assert now(job).state == State.RUNNING  # it is alive
        Job.objects.update(heartbeat_at=timezone.now() - job_life.LEASE * 1.1)
        job_life.reap()
        assert now(job).crashes == 1
        taken.append(job_life.claim_next())
        with (storage.job_folder(job) / "metrics.jsonl").open("a") as file:
            file.write('{"type": "step", "step": 6, "loss": 99.0}\n')

    trainer("slow", meanwhile=at_step(5, taken_over))
    run_next()
    assert not marked(str(job.id))
    [second] = taken
    assert second is not None
    job = now(job)
    assert (job.state, job.attempt, job.step) == (State.RUNNING, 2, 5)
    assert not job.measurements.filter(step=6).exists()
    stale = Job(id=job.id, attempt=1, workspace_id=job.workspace_id)
    assert job_life.keep(stale) is None
    assert not job_life.begin(stale)
    assert not job_life.end(stale, State.FAILED)
    assert not job_life.release(stale)
    assert not job_life.crashed(stale)
    assert job_life.keep(second) == ""


def test_what_a_killed_worker_left_running_is_ended_first(start: Start, trainer: Trainer) -> None:
    job = start(spec=SPEC)
    folder = storage.job_folder(job)
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(json.dumps({"output": str(folder)}))
    trainer("deaf")
    TrainerProcess(folder, str(job.id), folder / "spec.json", processes=1, threads=1)
    left = wait_until(lambda: found if len(found := set(marked(str(job.id)))) == 2 else None, "the trainer")
    beside: set[psutil.Process] = set()
    trainer(meanwhile=lambda _: beside.update(left & set(marked(str(job.id)))))
    run_next()
    assert not beside
    assert now(job).state == State.SUCCEEDED


def test_a_job_whose_processes_outlive_their_killing_says_so_and_is_resumed_once_they_are_gone(
    start: Start, trainer: Trainer, alice: User
) -> None:
    class Stuck(psutil.Process):
        def kill(self) -> None:
            """As where the kernel waits for a disk."""

    job = start(spec=SPEC)
    trainer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_worker, "end_left", partial(trainer_process.end_left, seconds=0))
        patch.setattr(trainer_process, "marked", lambda job: [Stuck()])
        run_next()
    job = now(job)
    assert (job.state, job.error_code) == (State.FAILED, "not_ended")
    assert "cannot be ended" in job.error_message
    assert next_step(job) == "resume"
    job_services.resume_job(job=job, user=alice)
    run_next()
    assert now(job).state == State.SUCCEEDED


def test_a_trainer_that_takes_too_much_memory_is_ended_and_keeps_its_checkpoint(
    start: Start, trainer: Trainer, settings: Settings
) -> None:
    settings.TRAINING_MEMORY_GB = 0.3
    job = start(spec=SPEC)
    trainer("greedy")
    run_next()
    assert (now(job).state, now(job).error_code) == (State.FAILED, "oom")
    assert "GB of memory it may have; the last checkpoint is kept" in now(job).error_message
    assert job.checkpoints.get().is_kept
    assert not marked(str(job.id))


def test_a_trainer_that_takes_too_long_is_saved_and_can_be_resumed(
    start: Start, trainer: Trainer, settings: Settings, alice: User
) -> None:
    settings.TRAINING_MAX_HOURS = 1 / 3600
    job = start(spec=SPEC)
    trainer("slow")
    run_next()
    assert (now(job).state, now(job).error_code) == (State.FAILED, "time_limit")
    assert job.checkpoints.latest("step").step == 5
    settings.TRAINING_MAX_HOURS = 0
    job_services.resume_job(job=now(job), user=alice)
    trainer()
    run_next()
    assert now(job).state == State.SUCCEEDED


def test_without_a_setting_a_job_may_take_what_the_machine_or_its_container_has(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.TRAINING_MEMORY_GB = 0
    usual = trainer_limits.memory_limit()
    assert usual <= 0.9 * psutil.virtual_memory().total
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    monkeypatch.setattr(trainer_limits, "_CONTAINER", (tmp_path / "memory.max", tmp_path / "none"))
    assert trainer_limits.memory_limit() == int(0.9 * 2**30)
    (tmp_path / "memory.max").write_text("max\n")
    assert trainer_limits.memory_limit() >= usual


@pytest.mark.parametrize("code", ["oom", "internal"])
def test_what_a_trainer_fails_of_is_said(start: Start, trainer: Trainer, code: str) -> None:
    job = start(spec=SPEC)
    trainer(f"fails-{code}")
    run_next()
    job = now(job)
    assert (job.state, job.error_code, job.error_message) == (State.FAILED, code, "It wrote so.")
    assert job.events.filter(code="failed", level="error", message="It wrote so.").exists()


def test_what_it_can_only_say_on_stderr_is_heard_too(start: Start, trainer: Trainer) -> None:
    job = start(spec=SPEC)
    trainer("mute-spec")
    run_next()
    assert (now(job).state, now(job).error_code, now(job).error_message) == (
        State.FAILED,
        "spec",
        "It said so.",
    )


@pytest.mark.parametrize(("status", "code"), [(6, "disk"), (5, "nan")])
def test_what_it_cannot_say_at_all_its_exit_status_says(
    start: Start, trainer: Trainer, status: int, code: str
) -> None:
    """As on a full disk, where it would be begun again and again."""
    job = start(spec=SPEC)
    trainer(f"exits-{status}")
    run_next()
    assert (now(job).state, now(job).error_code) == (State.FAILED, code)
    assert "disk" in now(job).error_message


def test_examples_too_long_to_be_learnt_from_are_a_warning_that_says_what_to_do(
    start: Start, trainer: Trainer
) -> None:
    job = start(spec=SPEC)
    trainer("beyond,dies")
    run_next()
    run_next()
    assert now(job).state == State.SUCCEEDED
    assert job.events.get(code="beyond").level == "warn"
    assert "read of them: 2. What is read is 64 tokens: raise “Longest example”" in parts(now(job))["events"]


def test_data_that_is_not_what_was_frozen_is_not_trained_on(start: Start, trainer: Trainer) -> None:
    job = start(spec=SPEC)
    assert job.version is not None
    with (storage.version_folder(job.version) / "train.jsonl").open("ab") as file:
        file.write(b"{}\n")
    trainer()
    run_next()
    assert (now(job).state, now(job).error_code) == (State.FAILED, "dataset_broken")


def test_a_job_that_is_deleted_with_its_workspace_ends_and_leaves_nothing(
    start: Start, trainer: Trainer
) -> None:
    job = start(spec=SPEC)
    trainer("slow", meanwhile=at_step(5, lambda job: Job.objects.filter(id=job.id).delete()))
    run_next()
    assert not marked(str(job.id))
    assert not storage.job_folder(job).exists()


def test_a_trainer_knows_no_secret_of_the_site(
    start: Start, trainer: Trainer, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    settings.TRAINING_THREADS = 3
    secrets = (
        "SECRET_KEY",
        "DATABASE_URL",
        "REDIS_URL",
        "EMAIL_URL",
        "OIDC_CLIENT_SECRET",
        "METRICS_TOKEN",
        "MINE",
    )
    for name in secrets:
        monkeypatch.setenv(name, "hush")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    job = start(spec=SPEC)
    trainer("env")
    run_next()
    found = json.loads((storage.job_folder(job) / "env.json").read_text())
    assert not {name for name, value in found.items() if "hush" in value}
    assert (found["CUDA_VISIBLE_DEVICES"], found["OMP_NUM_THREADS"]) == ("1", "3")


def test_workspaces_take_turns_and_the_one_with_fewest_jobs_in_hand_comes_first(
    start: Start, elsewhere: Workspace, charlie: User
) -> None:
    first, second, third = start(), start(), start()
    theirs = {"user": charlie, "workspace": elsewhere, "version": make_version(elsewhere)}
    late, later = start(**theirs), start(**theirs)
    turns = [job_life.claim_next() for _ in range(3)]
    assert turns == [first, late, second]
    # Alice's workspace was served last, and has as few in hand as Charlie's again.
    for job in turns:
        assert job is not None
        assert job_life.end(job, State.CANCELLED)
    assert [job_life.claim_next() for _ in range(3)] == [later, third, None]


def test_lost_tasks_are_sent_again_as_many_as_jobs_wait(
    start: Start, broker: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_their_way() -> int:
        with current_app.connection_for_write() as connection:
            return int(connection.default_channel.queue_declare(job_life.QUEUE).message_count)

    start(), start()
    job_life.reap()
    assert on_their_way() == 0  # not lost yet
    Job.objects.update(sent_at=timezone.now() - job_life._LOST_AFTER * 2)
    job_life.reap()
    job_life.reap()
    assert on_their_way() == 2


def test_a_line_counts_once_and_when_it_is_whole(start: Start, home: Path) -> None:
    start(spec=SPEC)
    job = job_life.claim_next()
    assert job is not None
    folder = storage.job_folder(job)
    folder.mkdir(parents=True)
    written = folder / "metrics.jsonl"
    line = '{"type": "step", "step": %d, "loss": 1.5, "seconds": 1.0}\n'
    written.write_text(line % 1 + (line % 2)[:20])
    for _ in range(2):
        tail.take_in(job, folder)
        assert (job.step, job.seconds, now(job).metrics_read) == (1, 1.0, len(line % 1))
    written.write_text(line % 1 + line % 2)
    tail.take_in(job, folder)
    assert (now(job).step, now(job).seconds) == (2, 2.0)
    written.write_text(line % 1 + (line % 2)[:20])  # a machine that stopped has lost what we know already
    tail.begin(job, folder)
    with written.open("a") as file:
        file.write(line % 3)
    tail.take_in(job, folder)
    assert list(job.measurements.values_list("step", flat=True)) == [1, 2, 3]
    with written.open("a") as file:
        file.write(line % 1)  # begun anew, since nothing had been saved
    tail.take_in(job, folder)
    assert list(job.measurements.values_list("step", flat=True)) == [1]


def test_what_was_read_and_not_written_down_is_read_again_and_there_once(
    start: Start, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(spec=SPEC)
    job = job_life.claim_next()
    assert job is not None
    folder = storage.job_folder(job)
    folder.mkdir(parents=True)
    lines = [
        {"type": "step", "step": 1, "loss": 1.5, "seconds": 1.0},
        {"type": "sample_failed", "step": 1, "why": "it said nothing"},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def killed(*_: object, **changes: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job_life, "keep", killed)
        with pytest.raises(KeyboardInterrupt):
            tail.take_in(job, folder)
    assert (now(job).metrics_read, now(job).step) == (0, 0)
    assert not job.measurements.exists()
    for _ in range(2):
        tail.take_in(now(job), folder)
    assert list(job.measurements.values_list("step", "loss")) == [(1, 1.5)]
    assert job.events.filter(code="sample_failed").count() == 1
    assert now(job).seconds == 1.0


def test_a_job_is_heard_of_while_it_is_silent(start: Start, trainer: Trainer, alice: User) -> None:
    job = start(spec=SPEC)
    beats: list[object] = []

    def look(job: Job) -> None:
        if job.step == 5 and len(set(beats)) < 4:
            beats.append(now(job).heartbeat_at)
        elif job.step == 5 and not now(job).wish:
            job_services.cancel_job(job=job, user=alice)

    trainer("slow", meanwhile=look)
    began = time.monotonic()
    run_next()
    assert now(job).state == State.CANCELLED
    assert time.monotonic() - began < 15
