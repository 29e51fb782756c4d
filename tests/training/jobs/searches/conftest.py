"""Searches and cross-validations that have just begun, and what becomes of their models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from inference.model_services import Prepared
from inference.models import ServedModel
from tests.training.jobs.searches.trials import Begin
from training import (
    search,
    search_services,
)
from training.job_request import JobRequest
from training.models import DatasetVersion, Job, Search
from training.publishing import Publication
from webapp.accounts.models import User

_SPACE = {
    "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "lora.r": {"low": 4, "high": 64},
    "optimizer": {"choices": ["adamw", "sgd"]},
}


@pytest.fixture
def begin(base: ServedModel, version: DatasetVersion, alice: User) -> Begin:
    def begin(**changes: Any) -> Search:
        asked: dict[str, Any] = {
            "user": alice, "workspace": version.dataset.workspace, "version": version, "base": base, "task": "chat",
            "name": "tone", "spec": {"epochs": 2.0},
        }  # fmt: skip
        searched = {name: changes.pop(name, usual) for name, usual in (("space", _SPACE), ("trials", 3))}
        return search_services.start_search(asked=JobRequest(**asked | changes), **searched)  # type: ignore[arg-type]

    return begin


@pytest.fixture
def folds(base: ServedModel, version: DatasetVersion, alice: User) -> Search:
    version.kind, version.manifest = "labelled", {"labels": ["ham", "spam"]}
    version.save()
    asked = JobRequest(
        user=alice, workspace=version.dataset.workspace, version=version, base=base, task="classification",
        name="sorted", spec={},
    )  # fmt: skip
    return search_services.start_folds(asked=asked, folds=3)


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Jobs whose model was published, in place of copying what real trainers save."""
    jobs: list[Job] = []

    around = len(connection.savepoint_ids)  # a test is a transaction itself

    def prepare(job: Job, folder: Path) -> Publication:
        assert (folder / "adapter").is_dir()
        assert len(connection.savepoint_ids) == around  # nobody waits for the disk
        jobs.append(job)
        row = ServedModel(
            name=f"ft:{job.name}", path="x", digest=job.id.hex * 2, architecture="llama", context_length=64,
            parameters=1, size_bytes=1, base=job.base, workspace=job.workspace,
        )  # fmt: skip
        return Publication(Prepared(row), [])

    monkeypatch.setattr(search, "prepare", prepare)
    return jobs
