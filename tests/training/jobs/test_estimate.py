"""How long a job will take, from what jobs like it took here; nothing is said where there are none."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

from inference.models import ServedModel
from tests.training.jobs.conftest import Start
from training.estimate import estimate
from training.models import Job

pytestmark = pytest.mark.django_db


@pytest.fixture
def past(start: Start) -> None:
    """1,000 tokens an epoch, twice, in 10 steps and 40 seconds."""
    job = start()
    Job.objects.filter(id=job.id).update(
        state=Job.State.SUCCEEDED, finished_at=timezone.now(), seconds=40.0, step=10, epoch=2.0, memory=7,
        data={"tokens": 1000},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "seconds"),
    [
        ({"epochs": 3}, 3 * 500 * 0.02),
        ({"max_steps": 5}, 5 * 200 * 0.02),
        ({"max_steps": 5, "batch_size": 8}, 5 * 8 * 10 * 0.02),
    ],
)
def test_time_goes_by_the_tokens_that_will_be_read(
    past: None, base: ServedModel, spec: dict[str, Any], seconds: float
) -> None:
    found = estimate(base=base, task="chat", spec=spec, tokens=500, examples=50)
    assert found is not None
    assert found.seconds == pytest.approx(seconds)
    assert (found.memory, found.jobs) == (7, 1)


def test_other_jobs_say_nothing(past: None, base: ServedModel) -> None:
    assert estimate(base=base, task="translation", spec={}, tokens=500, examples=50) is None
    assert estimate(base=None, task="chat", spec={}, tokens=500, examples=50) is None
    assert estimate(base=base, task="chat", spec={"method": "full"}, tokens=500, examples=50) is None
