"""Every write to training jobs that a person asks for: started, paused, resumed, cancelled, deleted.

What these return is committed; tasks are sent on commit. What a running job is told, its worker hears within about a
second. The rest of a job's life is in job_life.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext as _

from inference.models import ServedModel
from training import job_life, storage
from training.job_life import HELD
from training.job_notify import job_changed
from training.job_request import JobRequest
from training.job_tasks import send_prepare
from training.knobs import check_knobs, tasks_for
from training.models import Checkpoint, DatasetVersion, Job, Search
from training.trainer.spec import USUAL_SIZE, context_of
from training.work import cancel_work
from webapp.accounts.audit import record_audit
from webapp.accounts.models import User, Workspace
from webapp.core import clock
from webapp.core.errors import NotFound, UserError
from webapp.core.locks import lock_until_commit

__all__ = [
    "cancel_job",
    "check_knobs",
    "delete_job",
    "pause_job",
    "resume_job",
    "start_job",
    "tasks_for",
]
State, Wish = Job.State, Job.Wish
# Whoever starts more has made a mistake; each holds room on the disk.
MAX_UNFINISHED = 50


def clean_name(name: str) -> str:
    """Raises UserError `bad_name`."""
    name = " ".join("".join(letter for letter in name if letter.isprintable()).split())
    if not name or len(name) > 64:
        raise UserError("bad_name", _("A fine-tune needs a name of 1 to 64 letters."))
    return name


@transaction.atomic
def start_job(*, asked: JobRequest, request: HttpRequest | None = None) -> Job:
    """Raises UserError as `add_job`."""
    job = add_job(asked=asked)
    record_job("job_started", job, asked.user, request)
    return job


@transaction.atomic
def add_job(*, asked: JobRequest, search: Search | None = None, number: int = 0) -> Job:
    """`search`, `number`: the trial or fold that it is.

    Raises UserError `bad_name`, `bad_knobs`, `bad_task`, `bad_base`, `base_missing`, `version_not_ready`,
    `nothing_to_learn`, `too_many`.
    """
    # Under the lock a version goes only before, or is found in use afterwards.
    lock_until_commit(f"training.jobs.{asked.workspace.pk}")
    asked = check_start(asked)
    check_room(asked.workspace)
    job = Job.objects.create(**asked.fields(), search=search, number=number, sent_at=clock.now())
    job_life.add_event(job, "created", "It waits for a worker.")
    job_life.send_task()
    return job


def check_start(asked: JobRequest) -> JobRequest:
    """The same with the name without what cannot be seen, and the version as it is now.

    Raises UserError as `add_job`, but for `too_many`.
    """
    name = clean_name(asked.name)
    found = DatasetVersion.objects.select_related("dataset").filter(
        pk=asked.version.pk, dataset__workspace=asked.workspace, state=DatasetVersion.State.READY
    )
    ready = found.first()
    if ready is None:
        raise UserError("version_not_ready", _("That version of the data cannot be used yet, or no more."))
    _check_task(ready, asked.task)
    check_base(asked.base, asked.task)
    check_knobs(asked.task, asked.spec)
    check_length(asked.base, asked.spec)
    return replace(asked, name=name, version=ready)


@transaction.atomic
def cancel_job(*, job: Job, user: User, request: HttpRequest | None = None) -> Job:
    """At once where it waits; where it runs it is saved and ends within 15 seconds. It can be resumed for a while: see
    `forget_checkpoints`. Raises UserError `job_finished`.
    """
    job = _locked(job)
    if job.is_finished:
        raise _finished()
    if job.state in HELD:
        _wish(job, Wish.CANCEL)
    elif job_life.change(job, expected=(*Job.WAITING, State.PAUSED), state=State.CANCELLED):
        job_life.add_event(job, "cancelled", job_life.ending(job))
        _let_go(job)
    record_job("job_cancelled", job, user, request)
    return job


@transaction.atomic
def pause_job(*, job: Job, user: User, request: HttpRequest | None = None) -> Job:
    """As `cancel_job`, and it can be resumed. Raises UserError `job_finished`, `job_cancelling`."""
    job = _locked(job)
    if job.is_finished:
        raise _finished()
    if job.wish == Wish.CANCEL:
        raise UserError("job_cancelling", _("This fine-tune is being cancelled."), status=409)
    if job.state in HELD:
        _wish(job, Wish.PAUSE)
    elif job_life.change(job, expected=Job.WAITING, state=State.PAUSED):
        job_life.add_event(job, "paused", "It is paused.")
    record_job("job_paused", job, user, request)
    return job


@transaction.atomic
def resume_job(*, job: Job, user: User, request: HttpRequest | None = None) -> Job:
    """Goes on from the last checkpoint; also one that failed, once the reason is gone, or was cancelled by mistake.

    Raises UserError `job_not_paused`, `job_pausing`, `checkpoints_gone`, `version_gone`, `search_finished`, `too_many`.
    """
    lock_until_commit(f"training.jobs.{job.workspace_id}")
    job = _locked(job)
    if job.state in HELD and job.wish == Wish.PAUSE:
        raise UserError("job_pausing", _("This fine-tune is still being saved. Wait a moment."), status=409)
    if not can_go_on(job):
        if job.state == State.FAILED:
            message = _("What this fine-tune had saved is no longer kept. Begin another like it.")
            raise UserError("checkpoints_gone", message, status=409)
        raise UserError("job_not_paused", _("This fine-tune is not paused."), status=409)
    # What never began may have its files frozen once more; what did would go on with other data.
    is_to_be_frozen = job.version is None and job.training_file is not None and not job.attempt
    if job.version is None and not is_to_be_frozen:
        raise UserError("version_gone", _("The data of this fine-tune was deleted."), status=409)
    if job.search is not None and job.search.finished_at is not None:
        raise UserError("search_finished", _("The search that it was part of has ended."), status=409)
    if job.is_finished:
        check_room(job.workspace)
    again = {
        "crashes": 0,
        "error_code": "",
        "error_message": "",
        "error_param": "",
        "sent_at": clock.now(),
    }
    if is_to_be_frozen:
        if job_life.change(job, expected=(job.state,), state=State.VALIDATING_FILES, freezing=None, **again):
            job_life.add_event(job, "validating", "Its data is being checked.")
            send_prepare()
    elif job_life.change(job, expected=(job.state,), state=State.QUEUED, **again):
        job_life.add_event(job, "requeued", "It waits for a worker, to go on from the last checkpoint.")
        job_life.send_task()
    record_job("job_resumed", job, user, request)
    return job


def can_go_on(job: Job) -> bool:
    """Whether it is paused, or has ended and what it had saved is kept. What failed before it saved anything can begin
    anew; what has lost what it saved cannot, since its page is full of what it learnt."""
    if job.state == State.FAILED and not Checkpoint.objects.filter(job=job).exists():
        return True
    is_over = job.state in (State.FAILED, State.CANCELLED)
    return job.state == State.PAUSED or (is_over and job_life.last_saved(job) > 0)


def ended_and_kept(state: str, before: datetime) -> QuerySet[Job]:
    """Those that ended so before that, and can still go on from what they saved."""
    kept = Checkpoint.objects.filter(job=OuterRef("pk"), is_kept=True)
    return Job.objects.filter(Exists(kept), state=state, finished_at__lt=before)


def forget_checkpoints(*, state: str, ids: list[UUID], before: datetime) -> None:
    """Removes what is kept of those: checkpoints of all weights are several times the model."""
    for pk in ids:
        with transaction.atomic():
            # Locked: nobody resumes it meanwhile.
            job = ended_and_kept(state, before).select_for_update(of=("self",)).filter(pk=pk).first()
            if job is not None:
                storage.remove_folder(storage.job_folder(job) / "checkpoints")
                Checkpoint.objects.filter(job=job).update(is_kept=False)
                job_changed(job)


@transaction.atomic
def delete_job(*, job: Job, user: User, request: HttpRequest | None = None) -> None:
    """With its files. What came of it stays, where it is served. Raises UserError `job_unfinished`, `job_of_search`."""
    job = _locked(job)
    if job.search_id is not None:
        raise UserError("job_of_search", _("It is part of a search, and is deleted with it."), status=409)
    if not job.is_finished:
        raise UserError("job_unfinished", _("Cancel this fine-tune before you delete it."), status=409)
    record_job("job_deleted", job, user, request)
    job_changed(job)
    job.delete()  # signals.py sees to the files


def require_unused(versions: Any, workspace: Workspace, files: Iterable[UUID] = ()) -> None:
    """Inside the transaction that deletes versions, or files by their ids.

    Raises UserError `version_in_use`, `file_in_use`.
    """
    lock_until_commit(f"training.jobs.{workspace.pk}")
    files = list(files)
    preparing = Job.objects.filter(workspace=workspace, state=State.VALIDATING_FILES).filter(
        Q(training_file__in=files) | Q(validation_file__in=files)
    )
    if (waiting := preparing.first()) is not None:
        raise UserError(
            "file_in_use",
            _("The fine-tune “%(name)s” still needs this file. Cancel it first, or wait until it is queued.")
            % {"name": waiting.name},
            status=409,
        )
    using: Job | Search | None = (
        Job.objects.filter(version__in=versions).exclude(state__in=Job.TERMINAL).first()
    )
    if using is None:
        # Between two trials none is under way.
        wanted = [str(version.pk) for version in versions]
        using = Search.objects.filter(finished_at=None, parameters__version__in=wanted).first()
    if using is not None:
        raise UserError(
            "version_in_use",
            _("The fine-tune “%(name)s” still needs this data. Cancel it first, or wait for its end.")
            % {"name": using.name},
            status=409,
        )


def _locked(job: Job) -> Job:
    """As it is now, and until the commit. Raises UserError `not_found`."""
    rows = Job.objects.select_for_update(of=("self",)).select_related(
        "workspace", "version", "base", "search", "freezing"
    )
    found = rows.filter(pk=job.pk).first()
    if found is None:
        raise NotFound(_("That fine-tune"))
    return found


def _let_go(job: Job) -> None:
    """Of the freezing that nobody else waits for.

    The job's row is locked, and the dataset only now: whoever begins a freezing locks them the other way round, and
    none is begun for a job that has one under way.
    """
    if (
        job.freezing is not None
        and job.freezing.is_unfinished
        and not Job.objects.filter(freezing=job.freezing, state=State.VALIDATING_FILES).exists()
    ):
        cancel_work(work=job.freezing)


def _wish(job: Job, wish: str) -> None:
    if job.wish == wish:
        return
    job.wish = wish
    job.save(update_fields=["wish"])
    message = "Its cancelling was asked for." if wish == Wish.CANCEL else "A pause was asked for."
    job_life.add_event(job, "wish", message, data={"wish": str(wish)})


def _finished() -> UserError:
    return UserError("job_finished", _("This fine-tune has ended already."), status=409)


def _check_task(version: DatasetVersion, task: str) -> None:
    allowed = tasks_for(version)
    if not allowed:
        raise UserError("bad_task", _("There is no training yet for data of this kind."))
    if task not in allowed:
        raise UserError(
            "bad_task",
            _("This data cannot be used for that. It is for: %(tasks)s.")
            % {"tasks": ", ".join(str(each.label) for each in allowed)},
        )
    if not version.train:
        raise UserError("nothing_to_learn", _("There is nothing to learn from: no example is for training."))


def check_base(base: ServedModel | None, task: str) -> None:
    """Raises UserError `bad_base`, `base_missing`."""
    if task == Job.Task.SCRATCH:
        if base is not None:
            raise UserError("bad_base", _("A model that is made from scratch has no model to begin with."))
    elif base is None:
        raise UserError("base_missing", _("Choose a model to begin with."))
    elif base.base_id is not None or base.workspace_id is not None:
        raise UserError("bad_base", _("Begin with one of the installed models, not with a fine-tuned one."))


def check_length(base: ServedModel | None, spec: dict[str, Any]) -> None:
    """`base`: None of a new model. Raises UserError `bad_knobs` where examples are to be longer than it can read."""
    longest = spec.get("max_length", "auto")
    limit = base.context_length if base is not None else context_of(spec.get("size", USUAL_SIZE))
    if longest != "auto" and longest > limit:
        raise UserError(
            "bad_knobs", _("max_length may be at most %(limit)s, what the model can read.") % {"limit": limit}
        )


def check_room(workspace: Workspace) -> None:
    """The workspace's jobs are locked. Raises UserError `too_many`."""
    unfinished = Job.objects.filter(workspace=workspace).exclude(state__in=Job.TERMINAL).count()
    if unfinished >= MAX_UNFINISHED:
        raise UserError(
            "too_many",
            _("This workspace has %(limit)s fine-tunes that are not finished, which is the most.")
            % {"limit": MAX_UNFINISHED},
            status=409,
        )


def record_job(action: str, job: Job, user: User | None, request: HttpRequest | None) -> None:
    record_audit(
        action=action, actor=user, workspace=job.workspace, request=request, detail={"job": str(job.pk)}
    )
