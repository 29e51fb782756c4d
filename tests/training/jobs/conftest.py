"""What tests of jobs share: a home folder of their own, a base model's row, a frozen version, a way to start."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pytest_django.fixtures import Settings

from inference.models import ServedModel
from tests.training.jobs import scripted_trainer
from tests.training.jobs.watched import Trainer
from tests.training.trainer.conftest import chats, conversation, freeze, tiny_base  # noqa: F401
from training import job_services, storage, tail, trainer_process, training_worker
from training.datasets.frozen import read_manifest
from training.job_request import JobRequest
from training.models import Dataset, DatasetVersion, Job
from webapp.accounts.models import User, Workspace

Start = Callable[..., Job]


@pytest.fixture(autouse=True)
def home(settings: Settings, tmp_path: Path) -> Path:
    settings.FLYWHEEL_HOME = tmp_path
    settings.MODELS_DIR = tmp_path / "models"
    settings.TRAINING_THREADS = 1
    return tmp_path


@pytest.fixture
def base(db: None) -> ServedModel:
    return ServedModel.objects.create(
        name="tiny", path="tiny", digest="0" * 64, architecture="llama", context_length=1024, parameters=1,
        size_bytes=1, is_default=True,
    )  # fmt: skip


def make_version(workspace: Workspace) -> DatasetVersion:
    """Conversations, frozen."""
    dataset = Dataset.objects.create(workspace=workspace, name="Support", created_by=None)
    version = DatasetVersion(
        dataset=dataset, number=1, recipe={}, parent="", state=DatasetVersion.State.READY
    )
    folder = freeze(
        storage.version_folder(version),
        "chat",
        train=[conversation(n) for n in range(24)],
        validation=[conversation(n) for n in range(24, 30)],
    )
    manifest = read_manifest(folder)
    version.kind, version.content_hash = manifest.kind, manifest.content_hash
    version.manifest = msgspec.to_builtins(manifest)
    version.train, version.validation = 24, 6
    version.save()
    return version


@pytest.fixture
def version(workspace: Workspace) -> DatasetVersion:
    return make_version(workspace)


@pytest.fixture
def start(base: ServedModel, version: DatasetVersion, alice: User) -> Start:
    """Starts a job of Alice's, or another's."""

    def start(**changes: Any) -> Job:
        asked: dict[str, Any] = {
            "user": alice, "workspace": version.dataset.workspace, "version": version, "base": base,
            "task": "chat", "name": "support", "spec": {},
        }  # fmt: skip
        return job_services.start_job(asked=JobRequest(**asked | changes))

    return start


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
