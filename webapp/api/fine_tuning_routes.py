"""/v1/fine_tuning/jobs: OpenAI's fine-tuning, on this site's trainer. What a job does is `training`'s business."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from ninja import Query, Router

from training import access, job_services
from training.job_log import page_of_log
from training.models import Checkpoint, Job
from webapp.api.auth import Needs
from webapp.api.callers import Caller, caller
from webapp.api.fine_tuning_answers import as_checkpoints, as_event, as_job, checkpoint_id, event_number
from webapp.api.fine_tuning_requests import start
from webapp.api.fine_tuning_schemas import (
    CreateJob,
    FineTuningJob,
    FineTuningJobs,
    JobCheckpoints,
    JobEvents,
)
from webapp.api.ids import key_of
from webapp.api.lists import BY_METADATA, no_such_place, page_by_time, place_of, with_metadata

router = Router(auth=Needs("training"))


@router.post("/jobs", response=FineTuningJob, summary="Create a fine-tuning job")
def create_job(request: HttpRequest, body: CreateJob) -> Any:
    """Its files are checked and frozen first (`validating_files`), then it waits for a worker. An example that cannot
    be learnt fails it, and `error` names file and line."""
    return as_job(start(caller(request), body, request))


@router.get("/jobs", response=FineTuningJobs, summary="List jobs", openapi_extra=BY_METADATA)
def list_jobs(request: HttpRequest, limit: int = Query(20, ge=1, le=100), after: str | None = None) -> Any:
    """The workspace's, the newest first, those begun on the pages too; trials of a search are part of that."""
    who = caller(request)
    alone = access.list_jobs(who.user, who.workspace).filter(search=None)
    jobs = with_metadata(alone.select_related("result_file"), request.GET)
    last = place_of(after, lambda text: _job(who, text))
    page, has_more = page_by_time([jobs], after=last, limit=limit, order="desc")
    return FineTuningJobs(data=[as_job(job) for job in page], has_more=has_more)


@router.get("/jobs/{job_id}", response=FineTuningJob, summary="Retrieve a job")
def retrieve_job(request: HttpRequest, job_id: str) -> Any:
    return as_job(_job(caller(request), job_id))


@router.post("/jobs/{job_id}/cancel", response=FineTuningJob, summary="Cancel a job")
def cancel_job(request: HttpRequest, job_id: str) -> Any:
    """Ends it: at once where it waits, within 15 seconds where it runs. What is saved by then is kept for some days."""
    return _done(request, job_id, job_services.cancel_job)


@router.post("/jobs/{job_id}/pause", response=FineTuningJob, summary="Pause a job")
def pause_job(request: HttpRequest, job_id: str) -> Any:
    """What it has learnt is saved first; `status` is then `paused`."""
    return _done(request, job_id, job_services.pause_job)


@router.post("/jobs/{job_id}/resume", response=FineTuningJob, summary="Resume a job")
def resume_job(request: HttpRequest, job_id: str) -> Any:
    """It goes on from its last checkpoint: one that is paused, that failed, once the reason is gone, or that was
    cancelled, for some days."""
    return _done(request, job_id, job_services.resume_job)


@router.get("/jobs/{job_id}/events", response=JobEvents, summary="List a job's events")
def list_events(
    request: HttpRequest, job_id: str, limit: int = Query(20, ge=1, le=1000), after: str | None = None
) -> Any:
    """The newest first: messages, and the losses of each step as metrics."""
    job = _job(caller(request), job_id)
    before = None
    if after is not None and (before := event_number(job, after)) is None:
        raise no_such_place(after)
    page, has_more = page_of_log(job, before=before, size=limit)
    return JobEvents(data=[as_event(job, entry) for entry in page], has_more=has_more)


@router.get("/jobs/{job_id}/checkpoints", response=JobCheckpoints, summary="List a job's checkpoints")
def list_checkpoints(
    request: HttpRequest, job_id: str, limit: int = Query(10, ge=1, le=100), after: str | None = None
) -> Any:
    """The newest first. Of a job that succeeded the best one and the last ones can be asked by their names."""
    job = _job(caller(request), job_id)
    rows = Checkpoint.objects.filter(job=job).select_related("model").order_by("-step")
    if after is not None:
        last = next((row for row in rows if checkpoint_id(row) == after), None)
        if last is None:
            raise no_such_place(after)
        rows = rows.filter(step__lt=last.step)
    page = list(rows[: limit + 1])
    data = as_checkpoints(job, page[:limit])
    return JobCheckpoints(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=len(page) > limit,
    )


def _done(request: HttpRequest, job_id: str, does: Callable[..., Job]) -> FineTuningJob:
    who = caller(request)
    does(job=_job(who, job_id), user=who.user, request=request)
    return as_job(_job(who, job_id))


def _job(who: Caller, text: str) -> Job:
    """Raises NotFound."""
    return access.get_job(who.user, key_of("ftjob", text), within=who.workspace)
