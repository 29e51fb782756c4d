"""What tests of searches share: what a worker does with a trial, without a trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from training import (
    job_life,
    storage,
)
from training.models import Job, Measurement, Search
from training.search import advance
from webapp.core.errors import UserError

Begin = Callable[..., Search]
State = Job.State


def trial(found: Search, number: int) -> Job:
    return found.jobs.get(number=number)


def run(loss: float, *, ends: str = State.SUCCEEDED, **fields: Any) -> Job:
    """What a worker does with the job whose turn it is, without a trainer."""
    job = job_life.claim_next()
    assert job is not None
    assert job_life.begin(job)
    for name in ("adapter", "checkpoints"):
        (storage.job_folder(job) / name).mkdir(parents=True)
    assert job_life.end(job, ends, best_validation_loss=loss, **fields)
    return job


def measure(job: Job, *losses: float) -> None:
    """The base model's, and those of the evaluations so far."""
    Measurement.objects.bulk_create(
        Measurement(job=job, kind="validation", step=10 * n, loss=loss)
        for n, loss in enumerate((9.0, *losses))
    )


def now(row: Any) -> Any:
    return type(row).objects.get(pk=row.pk)


def code_of(call: Callable[[], object]) -> UserError:
    with pytest.raises(UserError) as caught:
        call()
    return caught.value


def lived(found: Search, *trials: tuple[dict[str, Any], float, float]) -> None:
    """Each with these knobs, its loss, and the seconds that its ten steps took."""
    for knobs, loss, seconds in trials:
        advance(found.id)
        job = found.jobs.get(state=State.QUEUED)
        Job.objects.filter(id=job.id).update(spec=job.spec | knobs)
        measure(run(loss, seconds=seconds, step=10), loss)
    advance(found.id)
