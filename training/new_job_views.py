"""The three pages that begin a fine-tune: data, method, settings.

What was entered is kept in the login session until the job is started, so that it survives going back. A page also
carries what the ones before it said: of two tabs each starts what it showed.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import UUID, uuid4

import msgspec
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db import IntegrityError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from training import access, job_services, knob_fields, search_services, services
from training.datasets.report import Histogram
from training.estimate import estimate
from training.job_forms import (
    DataForm,
    KnobsForm,
    MethodForm,
    SizeForm,
    first_prompts,
    offers,
    second_form,
    written,
)
from training.job_request import JobRequest
from training.job_views import admin_of
from training.job_words import expectation, in_labels
from training.models import DatasetVersion, Job, Search
from training.search_forms import SearchForm
from webapp.accounts.models import User, Workspace
from webapp.accounts.requests import posted
from webapp.core.errors import NotFound, UserError

_KEPT = "fine_tune"
_SECOND = ("base", "method", *knob_fields.OF_SCRATCH)  # the second page's fields, of whichever task
_THIRD = ("settings", "several")  # what stands in the third page's forms
Draft = dict[str, Any]


class Chosen(NamedTuple):
    """What the pages so far came to."""

    source: str  # "VERSION:TASK", as the first form has it
    version: DatasetVersion
    task: Job.Task


def _draft(request: HttpRequest, workspace: Workspace) -> Draft:
    draft = request.session.get(_KEPT)
    here = {"workspace": str(workspace.pk)}
    return draft if isinstance(draft, dict) and draft.get("workspace") == here["workspace"] else here


def _sent_or_kept(request: HttpRequest, draft: Draft, name: str) -> str:
    return str(request.POST.get(name, draft.get(name, "")))


def _chosen(request: HttpRequest, draft: Draft, workspace: Workspace) -> Chosen | None:
    source = _sent_or_kept(request, draft, "source")
    for offer in offers(workspace):
        if any(source == value for value, _label in offer.choices):
            return Chosen(source, offer.version, Job.Task(source.partition(":")[2]))
    return None


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def data(request: HttpRequest) -> HttpResponse:
    user, workspace = admin_of(request)
    if request.method == "GET" and "job" in request.GET:
        return _again(request, user, workspace)
    offered = offers(workspace)
    draft = _draft(request, workspace)
    wanted = request.GET.get("version", "")
    named = [value for offer in offered if str(offer.version.pk) == wanted for value, _label in offer.choices]
    first = [value for offer in offered[:1] for value, _label in offer.choices]
    likely = [*named[:1], draft.get("source"), *first[:1]]
    initial = {"source": next((value for value in likely if value), None)}
    form = DataForm(posted(request), offers=offered, initial=initial)
    if request.method == "POST" and form.is_valid():
        source = form.cleaned_data["source"]
        if source != draft.get("source"):  # what was entered for other data has its name and its questions
            draft = {name: value for name, value in draft.items() if name not in _THIRD}
        request.session[_KEPT] = draft | {"source": source}
        return redirect("job_new_method")
    has_versions = DatasetVersion.objects.filter(
        dataset__workspace=workspace, state=DatasetVersion.State.READY
    ).exists()
    return _page(request, "data", {"form": form, "has_versions": has_versions})


def _again(request: HttpRequest, user: User, workspace: Workspace) -> HttpResponse:
    """Begins with what another job was given."""
    try:
        job = access.get_job(user, UUID(request.GET["job"]))
    except (ValueError, NotFound):
        return redirect("job_new")
    values = knob_fields.values_of(job.spec)
    settings = values | {"name": job.name}
    settings["prompts"] = "\n".join(" ".join(prompt.split()) for prompt in job.spec.get("prompts", []))
    request.session[_KEPT] = {
        "workspace": str(workspace.pk),
        "source": f"{job.version_id}:{job.task}",
        "base": str(job.base_id or ""),
        "method": job.spec.get("method", "lora"),
        **{name: values.get(name, "") for name in knob_fields.OF_SCRATCH},
        "settings": settings,
    }
    return redirect("job_new_settings")


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def method(request: HttpRequest) -> HttpResponse:
    _user, workspace = admin_of(request)
    draft = _draft(request, workspace)
    chosen = _chosen(request, draft, workspace)
    if chosen is None:
        return redirect("job_new")
    kept = {name: draft[name] for name in _SECOND if draft.get(name)}
    form = second_form(chosen.task, posted(request), initial=kept)
    if request.method == "POST":
        request.session[_KEPT] = draft | {"source": chosen.source} | written(form)
        if "back" in request.POST:
            return redirect("job_new")
        if form.is_valid():
            return redirect("job_new_settings")
    return _page(request, "method", {"form": form, "chosen": chosen})


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def settings(request: HttpRequest) -> HttpResponse:
    user, workspace = admin_of(request)
    draft = _draft(request, workspace)
    chosen = _chosen(request, draft, workspace)
    if chosen is None:
        return redirect("job_new")
    second = second_form(
        chosen.task, {name: _sent_or_kept(request, draft, name) for name in _SECOND}, initial={}
    )
    if not second.is_valid():
        return redirect("job_new_method")
    method = second.cleaned_data.get("method", "full")
    kept = draft.get("settings") or {
        "name": chosen.version.dataset.name[:64],
        "prompts": "\n".join(first_prompts(chosen.version)),
    }
    form = KnobsForm(posted(request), task=chosen.task, method=method, initial=kept)
    several = SearchForm(
        posted(request), task=chosen.task, knobs=form.knobs, initial=draft.get("several") or {}
    )
    key = _key(request)
    if request.method == "POST":
        before = {"source": chosen.source} | written(second)
        request.session[_KEPT] = draft | before | {"settings": written(form), "several": written(several)}
        if "back" in request.POST:
            return redirect("job_new_method")
        if form.is_valid() and several.is_valid():
            begun = _start(request, user, workspace, chosen, second, form, several, key)
            if begun is not None:
                request.session.pop(_KEPT, None)
                return begun
    context = {
        "form": form,
        "several": several,
        "chosen": chosen,
        "second": second.cleaned_data,
        "carried": written(second).items(),
        "expected": _expected(chosen, second),
        "key": key,
    }
    return _page(request, "settings", context)


def _expected(chosen: Chosen, second: MethodForm | SizeForm) -> str:
    """What it will take, as far as jobs like it have shown; "" where none has."""
    report = services.last_report(chosen.version.dataset)
    tokens = (report.result or {}).get("tokens") if report is not None else None
    found = estimate(
        base=second.cleaned_data.get("base"),
        task=chosen.task,
        spec=second.spec(),
        lengths=msgspec.convert(tokens, Histogram) if tokens else None,
        examples=chosen.version.train,
        divided=chosen.version.kind == "document",
    )
    return expectation(found) if found is not None else ""


def _start(
    request: HttpRequest,
    user: User,
    workspace: Workspace,
    chosen: Chosen,
    second: MethodForm | SizeForm,
    form: KnobsForm,
    several: SearchForm,
    key: UUID,
) -> HttpResponse | None:
    """To the page of what was begun. None where it cannot be: the form says why, and nothing entered is lost."""
    asked = JobRequest(
        id=key,
        user=user,
        workspace=workspace,
        version=chosen.version,
        base=second.cleaned_data.get("base"),
        task=chosen.task,
        name=form.cleaned_data["name"],
        spec=second.spec() | form.spec(),
    )
    space, folds = several.space(), several.cleaned_data.get("folds")
    try:
        if space:
            trials = several.cleaned_data["trials"] or several.fields["trials"].initial
            search = search_services.start_search(asked=asked, space=space, trials=trials, request=request)
            return redirect("search", search.pk)
        if folds:
            return redirect(
                "search", search_services.start_folds(asked=asked, folds=folds, request=request).pk
            )
        return redirect("job", job_services.start_job(asked=asked, request=request).pk)
    except IntegrityError:
        return _begun_already(request, user, key)
    except UserError as error:
        form.add_error("name" if error.code == "bad_name" else None, in_labels(error.message))
        return None


def _key(request: HttpRequest) -> UUID:
    """What will be begun has the id that the page was given: who presses twice begins it once."""
    try:
        return UUID(request.POST.get("key", ""))
    except ValueError:
        return uuid4()


def _begun_already(request: HttpRequest, user: User, key: UUID) -> HttpResponse:
    """Raises NotFound."""
    messages.info(request, _("This was begun already: here it is."))
    if Search.objects.filter(pk=key).exists():
        return redirect("search", access.get_search(user, key).pk)
    return redirect("job", access.get_job(user, key).pk)


def _page(request: HttpRequest, step: str, context: dict[str, Any]) -> HttpResponse:
    forms = (context["form"], context.get("several"))
    status = 400 if any(form is not None and form.errors for form in forms) else 200
    return render(
        request, f"training/new_{step}.html", context | {"step": step, "section": "jobs"}, status=status
    )
