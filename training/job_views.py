"""Pages of training jobs: the list, one job as it learns, its losses as CSV, and what a person does with it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from training import access, job_page, job_services, job_words, judging, search_page
from training.models import DatasetVersion, Job, Measurement
from webapp.accounts.access import current_workspace
from webapp.accounts.models import User, Workspace
from webapp.accounts.requests import page_number, person
from webapp.core.errors import NotFound, UserError

# Of a step's line; what a validation's line lacks is left empty.
_COLUMNS = ("learning_rate", "gradient_norm", "tokens_per_second", "epoch")
PAGE_SIZE = 100
_WAITS = (*Job.TERMINAL, Job.State.PAUSED)
# It may be much: a classifier's evaluation has curves for each label.
_NOT_IN_THE_LIST = ("evaluation", "chosen", "data", "preparing", "metadata", "spec")


def admin_of(request: HttpRequest) -> tuple[User, Workspace]:
    """Who asks, and the workspace they are in. Raises NotFound unless they are an owner or admin of it."""
    user = person(request)
    workspace, _mine = current_workspace(user, request.session)
    access.require_data_admin(user, workspace)
    return user, workspace


@never_cache
@login_required
@require_GET
def jobs(request: HttpRequest) -> HttpResponse:
    _user, workspace = admin_of(request)
    ready = DatasetVersion.objects.filter(
        dataset__workspace=workspace, state=DatasetVersion.State.READY
    ).exists()
    context = {"section": "jobs", "has_data": ready}
    return render(request, "training/jobs.html", _table(request) | context)


@never_cache
@login_required
@require_GET
def jobs_list(request: HttpRequest) -> HttpResponse:
    """The table alone, while something in it is under way."""
    return render(request, "training/jobs_list.html", _table(request))


def _table(request: HttpRequest) -> dict[str, object]:
    """A page of jobs that stand alone, and of searches as one line each, the newest first."""
    user, workspace = admin_of(request)
    number = page_number(request)
    end = number * PAGE_SIZE
    lines = access.list_jobs(user, workspace).filter(search=None).select_related(None)
    alone = lines.select_related("base", "created_by").defer(*_NOT_IN_THE_LIST)[: end + 1]
    searches = [search_page.listed(search) for search in access.list_searches(user, workspace)[: end + 1]]
    both: list[Job | search_page.Listed] = [*alone, *searches]
    rows = sorted(both, key=lambda row: row.created_at, reverse=True)[end - PAGE_SIZE :]
    return {
        "rows": rows[:PAGE_SIZE],
        "is_busy": any(_is_busy(row) for row in rows[:PAGE_SIZE]),
        "number": number,
        "more": len(rows) > PAGE_SIZE,
    }


def _is_busy(row: Job | search_page.Listed) -> bool:
    return row.is_busy if isinstance(row, search_page.Listed) else row.state not in _WAITS


@never_cache
@login_required
@require_GET
def job(request: HttpRequest, job_id: UUID) -> HttpResponse:
    found = access.get_job(person(request), job_id)
    context = {"section": "jobs", "parts": job_page.TEMPLATES.items()}
    return render(request, "training/job.html", job_page.job_context(found) | context)


@never_cache
@login_required
@require_POST
def try_job(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """What a classifier says of a text: for the page's script that alone, else the page with it."""
    user = person(request)
    found = access.get_job(user, job_id)
    if job_words.next_step(found) != "judge":
        raise NotFound(_("That page"))
    context: dict[str, object] = {
        "tried": judging.judge(job=found, user=user, text=request.POST.get("text", ""))
    }
    if "HX-Request" in request.headers:
        return render(request, "training/job_judged.html", context)
    context |= {"section": "jobs", "parts": job_page.TEMPLATES.items()}
    return render(request, "training/job.html", job_page.job_context(found) | context)


@never_cache
@login_required
@require_GET
def losses(request: HttpRequest, job_id: UUID) -> HttpResponse:
    found = access.get_job(person(request), job_id)
    written = io.StringIO()
    rows = csv.writer(written)
    rows.writerow(["kind", "step", "loss", *_COLUMNS])
    measured = Measurement.objects.filter(job=found).order_by("kind", "step")
    for kind, step, loss, values in measured.values_list("kind", "step", "loss", "values").iterator():
        rows.writerow([kind, step, loss, *(values.get(column, "") for column in _COLUMNS)])
    headers = {"Content-Disposition": f'attachment; filename="losses-{found.pk.hex[:8]}.csv"'}
    return HttpResponse(written.getvalue(), content_type="text/csv; charset=utf-8", headers=headers)


def _act(does: Callable[..., object]) -> Callable[[HttpRequest, UUID], HttpResponse]:
    """A page that does something with a job and leads back to it; where it cannot be done, that page says why."""

    @login_required
    @require_POST
    def view(request: HttpRequest, job_id: UUID) -> HttpResponse:
        user = person(request)
        found = access.get_job(user, job_id)
        try:
            does(job=found, user=user, request=request)
        except NotFound:
            raise
        except UserError as error:
            messages.error(request, error.message)
        return redirect("job", found.pk)

    return view


pause = _act(job_services.pause_job)
resume = _act(job_services.resume_job)
cancel = _act(job_services.cancel_job)


@login_required
@require_POST
def delete(request: HttpRequest, job_id: UUID) -> HttpResponse:
    user = person(request)
    found = access.get_job(user, job_id)
    job_services.delete_job(job=found, user=user, request=request)
    messages.success(request, _("%(name)s is deleted.") % {"name": found.name})
    return redirect("jobs")
