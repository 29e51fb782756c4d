"""Every write to searches that a person asks for: begun, cancelled, deleted. Knows nothing of how trials are chosen.

A search's trials and a cross-validation's folds are jobs. Folds are all begun at once; the trials of a search one after
the other, by `training.search` in a worker.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import uuid4

from django.db import transaction
from django.http import HttpRequest
from django.utils.translation import gettext as _

from training import job_services
from training.job_forms import PROMPTLESS
from training.job_request import JobRequest
from training.job_services import clean_name
from training.models import Job, Search
from training.search_space import checked_space, most_demanding
from training.search_tasks import send_search
from training.trainer.spec import RANGES
from webapp.accounts.audit import record_audit
from webapp.accounts.models import User
from webapp.core.errors import NotFound, UserError
from webapp.core.locks import lock_until_commit

MOST_TRIALS = 100
MOST_FOLDS = int(RANGES["folds"][1])
# Each holds room on the disk and goes on for hours.
MAX_UNFINISHED = 10
_LONGEST_NAME = 60  # of a job's 64: its number comes after it


def trial_name(search: Search, number: int) -> str:
    return f"{search.name[:_LONGEST_NAME].rstrip()} {number}"


@transaction.atomic
def start_search(
    *, asked: JobRequest, space: dict[str, Any], trials: int, request: HttpRequest | None = None
) -> Search:
    """`asked`: what all trials have; `space`: what is looked for (`training.search_space`). It begins on commit.

    Raises UserError `bad_space`, `bad_trials`, `nothing_to_compare`, and as `job_services.check_start`.
    """
    if not 2 <= trials <= MOST_TRIALS:
        raise UserError("bad_trials", _("A search has 2 to %(most)s trials.") % {"most": MOST_TRIALS})
    lock_until_commit(f"training.jobs.{asked.workspace.pk}")
    job_services.check_start(asked)
    space = checked_space(asked.task, asked.spec, space)
    job_services.check_length(asked.base, most_demanding(asked.spec, space))
    parameters = {"space": space, "trials": trials}
    if not asked.version.validation:
        raise UserError(
            "nothing_to_compare",
            _("Trials are compared by the validation split, and this version has none. Freeze one that has."),
        )
    search = _begun(Search.Kind.SEARCH, asked, parameters)
    send_search(search.id)
    _record("search_started", search, asked.user, request)
    return search


@transaction.atomic
def start_folds(*, asked: JobRequest, folds: int, request: HttpRequest | None = None) -> Search:
    """A job for each part that is held back. Raises UserError `bad_folds`, and as `job_services.add_job`."""
    if asked.task not in PROMPTLESS:
        raise UserError("bad_folds", _("Cross-validation is for classification and for numbers."))
    if not 2 <= folds <= MOST_FOLDS:
        raise UserError("bad_folds", _("Cross-validation has 2 to %(most)s parts.") % {"most": MOST_FOLDS})
    lock_until_commit(f"training.jobs.{asked.workspace.pk}")
    search = _begun(Search.Kind.FOLDS, asked, {"folds": folds})
    for number in range(1, folds + 1):
        spec = asked.spec | {"folds": folds, "fold": number}
        fold = replace(asked, id=uuid4(), name=trial_name(search, number), spec=spec)
        job_services.add_job(asked=fold, search=search, number=number)
    _record("search_started", search, asked.user, request)
    return search


@transaction.atomic
def cancel_search(*, search: Search, user: User, request: HttpRequest | None = None) -> Search:
    """What is under way is cancelled, and nothing begins any more. Raises UserError `search_finished`."""
    search = _locked(search)
    if search.finished_at is not None:
        raise UserError("search_finished", _("This search has ended already."), status=409)
    search.cancel_requested = True
    search.save(update_fields=["cancel_requested"])
    for job in search.jobs.exclude(state__in=Job.TERMINAL):
        job_services.cancel_job(job=job, user=user, request=request)
    send_search(search.id)
    _record("search_cancelled", search, user, request)
    return search


@transaction.atomic
def delete_search(*, search: Search, user: User, request: HttpRequest | None = None) -> None:
    """With its jobs and their files. A model that is served stays. Raises UserError `search_unfinished`."""
    search = _locked(search)
    if search.finished_at is None:
        raise UserError("search_unfinished", _("Cancel this search before you delete it."), status=409)
    _record("search_deleted", search, user, request)
    search.delete()


def _locked(search: Search) -> Search:
    """As it is now, and until the commit, with the workspace's jobs. Raises UserError `not_found`."""
    lock_until_commit(f"training.jobs.{search.workspace_id}")
    rows = Search.objects.select_for_update(of=("self",)).select_related("workspace")
    found = rows.filter(pk=search.pk).first()
    if found is None:
        raise NotFound(_("That search"))
    return found


def _begun(kind: Search.Kind, asked: JobRequest, parameters: dict[str, Any]) -> Search:
    workspace, base = asked.workspace, asked.base
    if Search.objects.filter(workspace=workspace, finished_at=None).count() >= MAX_UNFINISHED:
        raise UserError(
            "too_many",
            _("This workspace has %(limit)s searches that are not finished, which is the most.")
            % {"limit": MAX_UNFINISHED},
            status=409,
        )
    of_all = {
        "version": str(asked.version.pk),
        "base": str(base.pk) if base else None,
        "data_label": asked.data_label,
        "base_name": base.name if base else "",
        "task": asked.task,
        "spec": asked.spec,
    }
    return Search.objects.create(
        id=asked.id,
        workspace=workspace,
        created_by=asked.user,
        name=clean_name(asked.name),
        kind=kind,
        parameters=of_all | parameters,
    )


def _record(action: str, search: Search, user: User | None, request: HttpRequest | None) -> None:
    detail = {"search": str(search.pk)}
    record_audit(action=action, actor=user, workspace=search.workspace, request=request, detail=detail)
