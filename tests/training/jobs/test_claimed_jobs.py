"""Whose turn it is with a worker, and a job that two workers come upon: nothing is left running."""

from __future__ import annotations

import json
from functools import partial

import psutil
import pytest
from celery import current_app
from django.utils import timezone

from tests.services import wait_until
from tests.training.jobs.conftest import Start, make_version
from tests.training.jobs.watched import SPEC, State, Trainer, at_step, now
from training import job_life, job_services, storage, tasks, trainer_process, training_worker
from training.job_words import next_step
from training.models import Job
from training.trainer_process import TrainerProcess, marked
from training.training_worker import run_next
from webapp.accounts.models import User, Workspace

pytestmark = pytest.mark.django_db


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
        patch.setattr(trainer_process, "marked", lambda job, session: [Stuck()])
        run_next()
    job = now(job)
    assert (job.state, job.error_code) == (State.FAILED, "not_ended")
    assert "cannot be ended" in job.error_message
    assert next_step(job) == "resume"
    job_services.resume_job(job=job, user=alice)
    run_next()
    assert now(job).state == State.SUCCEEDED


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


def test_people_of_one_workspace_take_turns_so_nobody_waits_for_all_that_a_colleague_began(
    start: Start, bob: User
) -> None:
    first, second, third = start(), start(), start()
    of_bob = start(user=bob)
    assert [job_life.claim_next() for _ in range(2)] == [first, of_bob]
    for job in (first, of_bob):
        assert job_life.end(now(job), State.CANCELLED)
    late = start(user=bob)
    assert [job_life.claim_next() for _ in range(4)] == [second, late, third, None]


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
