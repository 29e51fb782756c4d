"""How a search goes on, in a worker: hopeless trials are stopped, the next is begun, at the end the best is served.

All of it is made of rows, so it may be asked at any time and as often as one likes. Under the lock of the workspace's
jobs a search with a trial under way begins no other, so that a task delivered twice finds nothing to do.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext_noop

from inference.models import ServedModel
from training import job_life, job_services, storage
from training.job_notify import job_changed
from training.job_request import JobRequest
from training.models import Checkpoint, DatasetVersion, Job, Measurement, Search
from training.publishing import Publication, prepare
from training.search_services import trial_name
from training.search_space import by_time, knob_values, with_knobs
from training.study import State as TrialState
from training.study import Study, Trial
from training.trainer.evaluation import summarise_folds
from webapp.core.errors import UserError
from webapp.core.locks import lock_until_commit

logger = logging.getLogger(__name__)
State, Kind = Job.State, Search.Kind
# Rows keep sentences in English; pages translate them.
GONE = gettext_noop("Its data or its base model was deleted.")


def advance(search_id: UUID) -> None:
    """Does what is to be done now. Where the search has ended, what a worker that died right then has left to do."""
    search = Search.objects.filter(id=search_id).first()
    if search is None:
        return
    if search.finished_at is None:
        if search.kind == Kind.SEARCH:
            prune(search)
        _go_on(search_id)
    _tidy(search_id)


def _go_on(search_id: UUID) -> None:
    made: _Made | None = None
    try:
        while left := _step(search_id, made):
            if isinstance(left, Job):
                _discard(made)
                made = _made(left)
    except BaseException:
        _discard(made)
        raise
    if made is not None and not made.is_saved:
        _discard(made)


def prune(search: Search) -> None:
    """Has the trials stopped that are worse than the others were by then."""
    jobs = _jobs(search)
    running = [n for n, job in enumerate(jobs) if job.state == State.RUNNING and not job.wish]
    if running:
        study = Study(search.parameters["space"], _trials(search, jobs))
        for n in running:
            if study.is_hopeless(n):
                job_life.prune(jobs[n])


# --- One step of it, under the lock ----------------------------------------------------------------------------
@transaction.atomic
def _step(search_id: UUID, made: _Made | None) -> bool | Job:
    """Begins a trial or ends the search. Whether there is more to do at once; the best trial, if the search ends with
    it and `made` is not of it."""
    workspace_id = Search.objects.values_list("workspace", flat=True).filter(id=search_id).first()
    lock_until_commit(f"training.jobs.{workspace_id}")
    rows = Search.objects.select_for_update(of=("self",)).select_related("workspace", "created_by")
    search = rows.filter(id=search_id, finished_at=None).first()
    if search is None:
        return False
    jobs = _jobs(search)
    if any(not job.is_finished for job in jobs):
        return False
    if search.kind == Kind.FOLDS:
        _finish(search, _folds_result(jobs))
    elif search.cancel_requested or len(jobs) >= search.parameters["trials"]:
        return _finish_with_best(search, jobs, made)
    else:
        return _begin_trial(search, jobs, made)
    return False


def _begin_trial(search: Search, jobs: list[Job], made: _Made | None) -> bool | Job:
    """As `_step`: there is more to do where this one cannot be as it was to be."""
    asked, number = search.parameters, len(jobs) + 1
    version = DatasetVersion.objects.filter(id=asked["version"]).first()
    base = ServedModel.objects.filter(id=asked["base"]).first() if asked["base"] else None
    if version is None or (asked["base"] and base is None):
        return _finish_with_best(search, jobs, made, error=GONE)
    study = Study(asked["space"], _trials(search, jobs), wanted=asked["trials"], seed=search.id.hex)
    trial = JobRequest(
        user=search.created_by,
        workspace=search.workspace,
        version=version,
        base=base,
        task=asked["task"],
        name=trial_name(search, number),
        spec=with_knobs(asked["spec"], study.next()),
    )
    try:
        job_services.add_job(asked=trial, search=search, number=number)
    except UserError as error:
        if error.code == "too_many":
            logger.info("search %s waits for room", search.id)
        elif error.code == "bad_knobs":
            _record_impossible(search, trial, number, error)
            return True
        else:
            return _finish_with_best(search, jobs, made, error=error.message)
    return False


def _record_impossible(search: Search, trial: JobRequest, number: int, error: UserError) -> None:
    """Knobs that are good each may not go together: a trial that failed, and the search goes on."""
    now = timezone.now()
    job = Job.objects.create(
        **trial.fields(),
        search=search,
        number=number,
        state=State.FAILED,
        error_code=error.code,
        error_message=error.message,
        sent_at=now,
        finished_at=now,
    )
    job_life.add_event(job, "failed", error.message, level=job_life.Level.ERROR, data={"code": error.code})


# --- The end ---------------------------------------------------------------------------------------------------
@dataclass
class _Made:
    """The best trial's model: its files, which are copied before the lock, since all would wait for them, or why there
    is none."""

    job: Job
    publication: Publication | None = None
    error: str = ""
    is_saved: bool = False


def _made(best: Job) -> _Made:
    try:
        return _Made(best, prepare(best, storage.job_folder(best)))
    except UserError as unusable:
        return _Made(best, error=unusable.message)


def _discard(made: _Made | None) -> None:
    if made is not None and made.publication is not None:
        made.publication.discard()


def _finish_with_best(search: Search, jobs: list[Job], made: _Made | None, *, error: str = "") -> bool | Job:
    best = search.best(jobs)
    if best is not None:
        if made is None or made.job != best:
            return best
        error = made.error or error
        if made.publication is not None:
            best.model = made.publication.save()
            best.save(update_fields=["model"])
            job_changed(best)
            made.is_saved = True
    study = Study(search.parameters["space"], _trials(search, jobs))
    _finish(
        search,
        {
            "best": str(best.id) if best is not None else None,
            "loss": best.best_validation_loss if best is not None else None,
            "importance": study.importance(),
            "error": error,
        },
    )
    return False


def _folds_result(jobs: list[Job]) -> dict[str, Any]:
    judged = [job for job in jobs if job.state == State.SUCCEEDED and job.evaluation]
    failed = [job.number for job in jobs if job not in judged]
    return summarise_folds([job.evaluation for job in judged if job.evaluation]) | {"failed": failed}


def _finish(search: Search, result: dict[str, Any]) -> None:
    search.result, search.finished_at = result, timezone.now()
    search.save(update_fields=["result", "finished_at"])


def _tidy(search_id: UUID) -> None:
    """Of all trials only the best one's weights are kept; a fold's judge the settings, and are of no use besides.

    One that failed can be resumed, as long as the search has not ended.
    """
    search = Search.objects.filter(id=search_id).first()
    if search is None:
        return
    jobs = _jobs(search)
    best = search.best(jobs)
    ended = [State.SUCCEEDED, State.CANCELLED, *([State.FAILED] if search.finished_at else [])]
    useless = [job for job in jobs if job.state in ended and job != best]
    for job in useless:
        for name in ("checkpoints", "initial", "adapter", "model"):
            storage.remove_folder(storage.job_folder(job) / name)
    Checkpoint.objects.filter(job__in=useless, is_kept=True).update(is_kept=False)


# --- Rows as trials --------------------------------------------------------------------------------------------
def _jobs(search: Search) -> list[Job]:
    return list(Job.objects.filter(search=search).select_related("workspace", "base").order_by("number"))


def _trials(search: Search, jobs: list[Job]) -> list[Trial]:
    """By their validation losses; where those are all the same, by the time that their steps take."""
    space, seen = search.parameters["space"], dict[UUID, list[float]]()
    measured = Measurement.objects.filter(
        job__search=search, kind=Measurement.Kind.VALIDATION, step__gt=0
    ).order_by("step")
    for job_id, loss in measured.values_list("job", "loss"):
        seen.setdefault(job_id, []).append(loss)

    def trial(job: Job) -> Trial:
        result, so_far = job.best_validation_loss, seen.get(job.id, [])
        if by_time(space):
            # By its first evaluation there are enough steps to tell.
            result, so_far = job.seconds, [job.seconds / job.step] if so_far and job.step else []
        return Trial(knob_values(job.spec, space), _state(job), result, so_far)

    return [trial(job) for job in jobs]


def _state(job: Job) -> TrialState:
    if job.state == State.SUCCEEDED and job.best_validation_loss is not None:
        return "complete"
    if job.is_pruned:
        return "pruned"
    return "failed" if job.is_finished else "running"
