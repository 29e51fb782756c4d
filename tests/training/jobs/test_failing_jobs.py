"""A trainer that takes too much or fails: what is said, and what is kept."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
from pytest_django.fixtures import Settings

from tests.training.jobs.conftest import Start
from tests.training.jobs.watched import SPEC, State, Trainer, at_step, now
from training import job_services, storage, trainer_limits
from training.job_page import parts
from training.models import Job
from training.trainer_process import marked
from training.training_worker import run_next
from webapp.accounts.models import User

pytestmark = pytest.mark.django_db


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


def test_a_trainer_that_leaves_no_room_on_the_disk_is_ended_before_the_database_has_none(
    start: Start, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = start(spec=SPEC)
    half = storage.job_folder(job) / "checkpoints" / ".aside-step-00000008"

    def fill(job: Job) -> None:
        half.mkdir()
        monkeypatch.setattr(storage, "is_short", lambda: True)

    trainer("slow", meanwhile=at_step(5, fill))
    run_next()
    assert (now(job).state, now(job).error_code) == (State.FAILED, "disk")
    assert "Make room, and resume it" in now(job).error_message
    assert job.checkpoints.get().is_kept
    assert not half.exists()


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
