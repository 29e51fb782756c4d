"""The pages of cleaning and freezing: a recipe's switches, what they would do, and the versions made with them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from training import access, services, storage
from training import work as life
from training.datasets.frozen import SPLITS
from training.datasets.recipe import Effect, Recipe
from training.forms import RecipeForm
from training.knobs import tasks_for
from training.models import DatasetVersion, DataWork
from training.overview import doubts_of, split_doubts
from training.views import page
from webapp.accounts.requests import person, posted
from webapp.core.downloads import attachment, pieces_of
from webapp.core.errors import NotFound, UserError


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def clean(request: HttpRequest, dataset_id: UUID) -> HttpResponse:
    """POST with `freeze` freezes, otherwise it counts."""
    user = person(request)
    dataset = access.get_dataset(user, dataset_id)
    work = life.unfinished(dataset)  # first, as in views.file_table
    report = services.last_report(dataset)
    kind = report.result["kind"] if report is not None and report.result else ""
    counted, recipe = services.last_preview(dataset), services.last_recipe(dataset)
    form = RecipeForm(posted(request), recipe=recipe, kind=kind)
    status = 400 if form.errors else 200
    if request.method == "POST" and form.is_valid():
        try:
            if "freeze" in request.POST:
                services.start_freeze(dataset=dataset, recipe=form.recipe(), user=user, request=request)
                return redirect("dataset_versions", dataset.pk)
            services.start_preview(dataset=dataset, recipe=form.recipe())
            return redirect("dataset_clean", dataset.pk)
        except UserError as error:
            form.add_error(None, error.message)
            status = error.status
    context: dict[str, Any] = {
        "form": form,
        "report": report,
        "is_current": report is not None and services.is_current(report),
        "work": work,
        "failed": services.last_failure(dataset, DataWork.Kind.PREVIEW),
        "counted": counted,
        "effects": msgspec.convert(counted.result, list[Effect]) if counted else [],
    }
    if counted is not None:
        was = msgspec.convert(counted.parameters["recipe"], Recipe)
        context["is_as_counted"] = was == recipe and not (form.is_bound and form.has_changed())
        sizes = next((effect.splits for effect in context["effects"] if effect.splits), None)
        context["doubts"] = split_doubts(sizes, was.split) if sizes else []
    return render(request, "training/clean.html", page(dataset, "clean") | context, status=status)


@never_cache
@login_required
@require_GET
def versions(request: HttpRequest, dataset_id: UUID) -> HttpResponse:
    dataset = access.get_dataset(person(request), dataset_id)
    work = life.unfinished(dataset)
    # Why one could not be made, the page says once; there is nothing of it to list.
    found = list(dataset.versions.exclude(state=DatasetVersion.State.FAILED).select_related("created_by"))
    for version in found:
        pretty = msgspec.json.format(msgspec.json.encode(version.recipe), indent=2)
        version.recipe_text = pretty.decode()  # type: ignore[attr-defined]
        version.tasks = tasks_for(version) if version.train else []  # type: ignore[attr-defined]
        is_ready = version.state == DatasetVersion.State.READY
        version.doubts = doubts_of(version) if is_ready else []  # type: ignore[attr-defined]
        version.effects = (version.manifest or {}).get("effects", [])  # type: ignore[attr-defined]
    context = {
        "versions": found,
        "work": work,
        "last": services.last_freeze(dataset),
    }
    return render(request, "training/versions.html", page(dataset, "versions") | context)


@login_required
@require_POST
def delete_version(request: HttpRequest, version_id: UUID) -> HttpResponse:
    user = person(request)
    version = access.get_version(user, version_id)
    services.delete_version(version=version, user=user, request=request)
    messages.success(request, _("Version %(number)s is deleted.") % {"number": version.number})
    return redirect("dataset_versions", version.dataset_id)


@never_cache
@login_required
@require_GET
def download(request: HttpRequest, version_id: UUID, split: str) -> StreamingHttpResponse:
    version = access.get_version(person(request), version_id)
    path = storage.version_folder(version) / f"{split}.jsonl"
    if split not in SPLITS or version.state != DatasetVersion.State.READY or not path.is_file():
        raise NotFound(_("That file"))
    name = f"dataset-{version.content_hash[:12]}-{split}.jsonl"
    return attachment(pieces_of(path), name=name, size=path.stat().st_size, content_type="application/jsonl")
