"""A job under its worker, with a scripted trainer: what it writes is in rows, whichever of its processes dies."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from django.db import connections

from inference import model_storage
from inference.model_services import Prepared
from inference.models import ServedModel
from tests.services import wait_until
from tests.training.jobs.conftest import Start
from tests.training.jobs.scripted_trainer import STEPS, loss
from tests.training.jobs.watched import SPEC, WHOLE, Execute, State, Trainer, now, rows
from training import job_life, job_services, storage, tail, training_worker
from training.models import Job
from training.publishing import Publication
from training.training_worker import run_next
from webapp.accounts.models import User
from webapp.core.request_ids import on_behalf_of

pytestmark = pytest.mark.django_db


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


def test_a_loss_of_nothing_is_one(start: Start, trainer: Trainer) -> None:
    """As where labels are told apart for certain; a search would take none for a trial that failed."""
    job = start(spec=SPEC)
    trainer("certain")
    run_next()
    assert now(job).best_validation_loss == 0.0


def test_a_model_is_copied_in_no_transaction_and_its_job_is_kept_alive_meanwhile(
    start: Start, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, mine, looks = start(spec=SPEC), connections["default"], threading.Event()
    around = len(mine.savepoint_ids)  # a test is a transaction itself
    stages = []

    def look(job: Job) -> None:
        stages.append(now(job).stage)
        looks.set()

    trainer(meanwhile=look)

    def prepare(*_: object) -> None:
        looks.clear()
        assert looks.wait(10)
        # Not but for the moments in which the worker looks.
        wait_until(lambda: len(mine.savepoint_ids) == around, "the end of the transaction")

    monkeypatch.setattr(training_worker, "prepare", prepare)
    run_next()
    assert now(job).state == State.SUCCEEDED
    assert stages[-1] == job_life.PUBLISHING  # as its page says


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
