"""Jobs and data work when a clock is set: none is begun a second time, and what a dead worker held is still noticed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.clocks import HOUR, SetClock, set_clock, time_passes  # noqa: F401
from tests.training.jobs.conftest import Start
from training import job_life, work
from training.models import DataWork, Job
from webapp.core import clock

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("by", [HOUR, -HOUR], ids=["forward", "back"])
def test_a_clock_that_is_set_by_an_hour_runs_no_job_twice(
    start: Start,
    by: timedelta,
    set_clock: SetClock,  # noqa: F811
    time_passes: SetClock,  # noqa: F811
) -> None:
    job = start()
    claimed = job_life.claim_next()
    assert claimed == job
    set_clock(by)
    job_life.reap()
    assert job_life.keep(claimed) == ""
    job.refresh_from_db()
    assert (job.state, job.attempt, job.crashes) == (Job.State.RUNNING, 1, 0)
    # Its worker dies, and that is noticed as soon as ever.
    time_passes(job_life.LEASE + timedelta(seconds=1))
    job_life.reap()
    job.refresh_from_db()
    assert (job.state, job.crashes) == (Job.State.QUEUED, 1)


@pytest.mark.parametrize("by", [HOUR, -HOUR], ids=["forward", "back"])
def test_a_clock_that_is_set_by_an_hour_begins_no_data_work_anew(
    start: Start,
    by: timedelta,
    set_clock: SetClock,  # noqa: F811
    time_passes: SetClock,  # noqa: F811
) -> None:
    version = start().version
    assert version is not None
    doing = DataWork.objects.create(
        dataset=version.dataset, kind=DataWork.Kind.REPORT, parameters={}, sent_at=clock.now()
    )
    assert work.claim_work(work_id=doing.id) is not None
    set_clock(by)
    work.reap()
    doing.refresh_from_db()
    assert (doing.state, doing.attempt, doing.crashes) == (DataWork.State.RUNNING, 1, 0)
    time_passes(work.LEASE + timedelta(seconds=1))
    work.reap()
    doing.refresh_from_db()
    assert (doing.state, doing.crashes) == (DataWork.State.QUEUED, 1)
