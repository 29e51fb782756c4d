"""The real trainer under its worker, on a tiny model: killed with its worker, it goes on as if nothing had happened;
cancelled, it saves and is gone in time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone
from pytest_django.fixtures import Settings

from inference import local_models, model_services
from inference.models import ServedModel
from tests.services import ROOT, wait_until
from tests.training.jobs.conftest import Start
from training import job_life, job_services, search_services, storage, tail, trainer_process
from training.job_request import JobRequest
from training.models import DatasetVersion, Job
from training.search import advance
from training.trainer.command import main
from training.trainer_process import marked
from training.training_worker import Ended, Supervision, run_next
from webapp.accounts.models import User
from webapp.core import shared_storage
from webapp.env import Env

# Some processes import torch: seconds, and minutes on a machine that has other things to do.
# What they do with rows the scripted ones of test_training_worker.py do on every database.
pytestmark = [pytest.mark.django_db, pytest.mark.timeout(600), pytest.mark.one_database]
KNOBS: dict[str, Any] = {
    "batch_size": 4, "learning_rate": 0.005, "precision": "fp32", "max_steps": 30, "checkpoint_every": 10,
    "prompts": ["fox?"], "sample_tokens": 4,
}  # fmt: skip
# What a worker does to start a trainer, and then waits.
WORKER = """
import sys, time
from collections.abc import Callable
from pathlib import Path
from training.trainer_process import TrainerProcess
TrainerProcess(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[1]) / "spec.json", processes=1, threads=1)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _not_the_last_in_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer that gives way to all the tests beside it does not save in time."""
    monkeypatch.setattr(trainer_process, "NICE", 0)


def test_a_job_whose_worker_is_killed_goes_on_with_the_losses_of_an_uninterrupted_one(
    start: Start, base: ServedModel, version: DatasetVersion, tiny_base: Path, home: Path
) -> None:
    base.path = str(tiny_base)
    base.save()
    whole = home / "whole"
    spec = {"base": str(tiny_base), "dataset": str(storage.version_folder(version)), "output": str(whole)}
    (home / "spec.json").write_text(json.dumps({**KNOBS, **spec, "threads": 1, "device": "cpu"}))
    assert main([str(home / "spec.json")]) == 0
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    expected = [(line["step"], line["loss"]) for line in lines if line["type"] == "step"]

    start(spec=KNOBS)
    job = job_life.claim_next()
    assert job is not None
    folder = storage.job_folder(job)
    folder.mkdir(parents=True)
    Supervision(job)._write_spec(storage.version_folder(version))
    assert job_life.begin(job)
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(folder), str(job.id)], cwd=ROOT)
    written = folder / "metrics.jsonl"
    try:
        wait_until(lambda: written.exists() and '"step":12' in written.read_text(), "step 12", seconds=120)
    finally:
        worker.kill()
        worker.wait()
    wait_until(lambda: not marked(str(job.id)), "the end of its trainers", seconds=60)
    assert len([line for line in written.read_text().splitlines() if '"type":"step"' in line]) < 30
    Job.objects.update(heartbeat_at=timezone.now() - job_life.LEASE * 1.1)
    job_life.reap()

    run_next()
    job = Job.objects.get()
    assert (job.state, job.error_message) == (Job.State.SUCCEEDED, "")
    assert list(job.measurements.filter(kind="train").values_list("step", "loss")) == expected
    assert job.events.get(code="resumed").data["exact"]
    assert job.samples.count() == 4
    assert job.model is not None
    assert (job.model.workspace, job.model.base) == (job.workspace, base)
    assert job.model.name == f"ft:tiny:acme:support:{job.id.hex[:8]}"
    assert (job.model.location / "adapter_model.safetensors").exists()
    others = {step: f"{job.model.name}:ckpt-step-{step}" for step in (20, 30) if step != job.best_step}
    answering = job.checkpoints.filter(model__isnull=False).select_related("model").order_by("step")
    assert {checkpoint.step: checkpoint.model.name for checkpoint in answering} == others
    for checkpoint in answering:
        assert checkpoint.model.is_checkpoint
        assert (checkpoint.model.location / "adapter_model.safetensors").exists()
    assert not marked(str(job.id))


def test_a_training_host_without_the_base_fetches_it_and_what_it_learnt_is_there_for_all_hosts(
    start: Start, version: DatasetVersion, tiny_base: Path, home: Path, settings: Settings
) -> None:
    settings.STORAGES = settings.STORAGES | shared_storage.configuration(
        Env({"STORAGE_URL": f"file://{home}/shared"})
    )
    base = model_services.register_model(name="everywhere", path=tiny_base)
    start(base=base, spec={**KNOBS, "max_steps": 2, "checkpoint_every": 1})
    settings.FLYWHEEL_HOME = home / "training host"
    settings.FLYWHEEL_HOME.mkdir()
    for mounted in ("datasets", "jobs"):
        (home / mounted).mkdir(exist_ok=True)
        (settings.FLYWHEEL_HOME / mounted).symlink_to(home / mounted)
    run_next()
    job = Job.objects.get()
    assert (job.state, job.error_message) == (Job.State.SUCCEEDED, "")
    assert base.location.is_relative_to(settings.FLYWHEEL_HOME)
    assert base.location.is_dir()
    settings.FLYWHEEL_HOME = home / "third"
    checkpoints = ServedModel.objects.filter(is_checkpoint=True)
    assert checkpoints
    for model in (job.model, *checkpoints):
        assert model is not None
        with local_models.hold(model) as folder:
            assert folder.is_relative_to(home / "third")
            assert (folder / "adapter_model.safetensors").is_file()


def test_a_searchs_trials_are_judged_by_the_same_tokens_and_the_fastest_of_equals_is_published(
    base: ServedModel, version: DatasetVersion, tiny_base: Path, alice: User
) -> None:
    base.path = str(tiny_base)
    base.save()
    both = {"choices": [True, False]}
    space: dict[str, Any] = {"packing": both, "gradient_checkpointing": both}
    found = search_services.start_search(
        asked=JobRequest(
            user=alice, workspace=version.dataset.workspace, version=version, base=base, task="chat", name="fast",
            spec=KNOBS | {"max_steps": 4, "checkpoint_every": 2, "prompts": []},
        ),
        space=space | {"max_length": {"choices": [24, 64]}}, trials=4,
    )  # fmt: skip
    knobs = [(24, True, False), (64, True, False), (64, False, False), (64, True, True)]
    for length, packing, again in knobs:
        advance(found.id)
        waiting = found.jobs.get(state=Job.State.QUEUED)
        waiting.spec |= {"max_length": length, "packing": packing, "gradient_checkpointing": again}
        waiting.save()
        job = job_life.claim_next()
        assert job is not None
        folder = storage.job_folder(job)
        folder.mkdir(parents=True)
        supervision = Supervision(job)
        spec = supervision._write_spec(storage.version_folder(version))
        assert job_life.begin(job)
        tail.begin(job, folder)
        assert main([str(spec)]) == 0
        tail.drain(job, folder)
        supervision._conclude(Ended("", 0))
    advance(found.id)
    short, *same = found.jobs.order_by("number")
    judged = {job.data["validation_trained_tokens"] for job in (short, *same)}
    assert len(judged) == 1
    assert short.data["trained_tokens"] < same[0].data["trained_tokens"]
    assert short.base_validation_loss == pytest.approx(same[0].base_validation_loss, rel=1e-6)
    for job in same:
        assert job.best_validation_loss == pytest.approx(same[0].best_validation_loss, rel=1e-4)
    assert short.best_validation_loss != pytest.approx(same[0].best_validation_loss, rel=1e-3)
    assert same[0].best_validation_loss < short.best_validation_loss
    fastest = min(same, key=lambda job: job.seconds)
    found.refresh_from_db()
    assert found.result["best"] == str(fastest.id)
    assert fastest.model is not None
    assert (fastest.model.location / "adapter_model.safetensors").exists()


def test_a_job_of_several_processes_succeeds_as_one_of_one_does(
    start: Start, base: ServedModel, tiny_base: Path, settings: Settings
) -> None:
    settings.TRAINING_PROCESSES = 2
    base.path = str(tiny_base)
    base.save()
    start(spec={**KNOBS, "max_steps": 2, "checkpoint_every": 1})
    run_next()
    job = Job.objects.get()
    assert (job.state, job.error_message) == (Job.State.SUCCEEDED, "")
    assert list(job.measurements.filter(kind="train").values_list("step", flat=True)) == [1, 2]
    assert job.samples.count() == 3
    assert job.model is not None
    assert (job.model.location / "adapter_model.safetensors").exists()
    assert not marked(str(job.id))


def test_a_cancelled_job_saves_what_it_learnt_is_gone_within_fifteen_seconds_and_can_be_resumed(
    start: Start,
    base: ServedModel,
    tiny_base: Path,
    alice: User,
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    django_capture_on_commit_callbacks: Callable[..., Any],
) -> None:
    settings.TRAINING_PROCESSES = 2  # and torchrun, which passes on that they shall stop
    base.path = str(tiny_base)
    base.save()
    take_in = tail.take_in
    cancelled_at: list[float] = []

    def look(job: Job, folder: Path) -> str | None:
        if job.step >= 3 and not cancelled_at:
            job_services.cancel_job(job=job, user=alice)
            cancelled_at.append(time.monotonic())
        return take_in(job, folder)

    monkeypatch.setattr(tail, "take_in", look)
    job = start(spec={**KNOBS, "max_steps": 100_000, "checkpoint_every": 100_000})
    with django_capture_on_commit_callbacks(execute=True):
        run_next()
    assert time.monotonic() - cancelled_at[0] < 15
    job = Job.objects.get()
    assert (job.state, job.error_code, job.model) == (Job.State.CANCELLED, "", None)
    assert job.events.get(code="checkpoint").data["step"] == job.step >= 3
    assert not marked(str(job.id))
    assert (storage.job_folder(job) / "checkpoints" / f"step-{job.step:08d}").is_dir()
    assert job_services.resume_job(job=job, user=alice).state == Job.State.QUEUED
