"""How long a job will take, from what jobs like it took here; nothing is said where there are none."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from inference.models import ServedModel
from tests.training.jobs.conftest import Start
from training.datasets.report import Histogram
from training.estimate import Estimate, estimate
from training.models import Job, Measurement

pytestmark = pytest.mark.django_db
TEN = Histogram([0, 20], [50], 50, 10, 10, 10, 10)  # tokens


def succeeded(job: Job, *, before: float = 30.0, rest: float = 40.0, **fields: Any) -> None:
    """1,000 tokens an epoch, twice, in 10 steps; the steps alone took 25 seconds."""
    end = timezone.now()
    first = end - timedelta(seconds=rest)
    usual: dict[str, Any] = {
        "state": Job.State.SUCCEEDED, "attempt": 1, "started_at": first - timedelta(seconds=before),
        "finished_at": end, "seconds": 25.0, "step": 10, "epoch": 2.0, "memory": 7,
        "data": {"tokens": 1000, "device": "cpu"},
    }  # fmt: skip
    Job.objects.filter(id=job.id).update(**usual | fields)
    for step, at in ((1, first), (10, end)):
        Measurement.objects.create(job=job, kind="train", step=step, loss=1.0, created_at=at)


def found(
    base: ServedModel | None, lengths: Histogram = TEN, task: str = "chat", examples: int = 50, **spec: Any
) -> Estimate | None:
    return estimate(base=base, task=task, spec=spec, lengths=lengths, examples=examples)


@pytest.mark.parametrize(
    ("spec", "seconds"),
    [
        ({"epochs": 3}, 3 * 500 * 0.02),
        ({"max_steps": 5}, 5 * 200 * 0.02),
        ({"max_steps": 5, "batch_size": 8}, 5 * 8 * 10 * 0.02),
    ],
)
def test_time_is_the_clocks_and_goes_by_the_tokens_that_will_be_read_once_it_is_under_way(
    start: Start, base: ServedModel, spec: dict[str, Any], seconds: float
) -> None:
    succeeded(start())
    said = found(base, **spec)
    assert said is not None
    assert said.seconds == pytest.approx(30 + seconds, abs=0.01)
    assert (said.memory, said.jobs) == (7, 1)


def test_what_is_cut_off_is_not_read(start: Start, base: ServedModel) -> None:
    succeeded(start())
    long = Histogram([0, 20, 4000], [40, 10], 50, 410, 10, 2010, 4000)
    assert round(long.mean * long.total) == 40 * 10 + 10 * 2010
    for spec, most in (({}, base.context_length), ({"max_length": 100}, 100)):
        said = found(base, long, epochs=1, **spec)
        assert said is not None
        assert said.seconds == pytest.approx(30 + (40 * 10 + 10 * most) * 0.02, abs=0.01)
    said = estimate(base=base, task="chat", spec={"epochs": 1}, lengths=long, examples=50, divided=True)
    assert said is not None
    assert said.seconds == pytest.approx(30 + 50 * 410 * 0.02, abs=0.01)


def test_jobs_that_waited_in_between_or_had_another_device_say_nothing(
    start: Start, base: ServedModel
) -> None:
    succeeded(start(), attempt=2)
    assert found(base) is None
    succeeded(start(), data={"tokens": 1000, "device": "cuda"}, rest=1.0)
    succeeded(start())  # the last one: here it is a processor now
    said = found(base, epochs=2)
    assert said is not None
    assert said.jobs == 1
    assert said.seconds == pytest.approx(30 + 1000 * 0.02, abs=0.01)


def test_other_jobs_say_nothing(start: Start, base: ServedModel) -> None:
    succeeded(start())
    assert found(base) is not None
    assert found(base, task="translation") is None
    assert found(None) is None
    assert found(base, method="full") is None
    assert found(base, examples=0) is None
