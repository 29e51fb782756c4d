"""Cross-validations: a job for each part that is held back."""

from __future__ import annotations

from typing import Any

import pytest

from tests.training.job_pages.rows import classified
from tests.training.jobs.searches.trials import State, code_of, now, run, trial
from training import (
    search_services,
    storage,
)
from training.job_request import JobRequest
from training.models import Job, Search
from training.search import advance
from webapp.accounts.models import User

pytestmark = pytest.mark.django_db
Wish = Job.Wish


def test_folds_are_jobs_and_summarised_when_all_have_ended(folds: Search, published: list[Job]) -> None:
    assert [job.spec for job in folds.jobs.order_by("number")] == [
        {"folds": 3, "fold": number} for number in (1, 2, 3)
    ]
    for accuracy in (0.8, 0.9):
        advance(folds.id)
        run(1.0, evaluation=classified("binary") | {"accuracy": accuracy, "examples": 10})
    advance(folds.id)
    assert now(folds).finished_at is None
    run(1.0, ends=State.FAILED, error_code="oom")
    advance(folds.id)
    result = now(folds).result
    assert (result["folds"], result["examples"], result["failed"]) == (2, 20, [3])
    assert result["figures"]["accuracy"]["mean"] == pytest.approx(0.85)
    assert result["figures"]["accuracy"]["std"] == pytest.approx(0.0707, abs=1e-4)
    assert not published
    assert not any((storage.job_folder(job) / "adapter").exists() for job in folds.jobs.all())


def test_cross_validation_is_for_labels_and_numbers(folds: Search, alice: User) -> None:
    job = trial(folds, 1)
    asked: dict[str, Any] = {
        "user": alice, "workspace": job.workspace, "version": job.version, "base": job.base, "name": "x", "spec": {},
    }  # fmt: skip
    for task, many in (("chat", 3), ("classification", 1), ("classification", 21)):
        request = JobRequest(**asked, task=task)
        refused = code_of(lambda: search_services.start_folds(asked=request, folds=many))  # noqa: B023
        assert refused.code == "bad_folds"
