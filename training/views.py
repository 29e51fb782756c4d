"""Pages of datasets: the list, one dataset's files, how a file is read, and the progress of what is being done."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from training import access, services, uploads
from training import work as life
from training.first_rows import first_rows, unused_columns
from training.forms import NameForm, ReadingForm
from training.models import Dataset, DataWork, SourceFile
from training.overview import list_rows
from webapp.accounts.access import current_workspace
from webapp.accounts.requests import person, posted
from webapp.core.errors import UserError


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def datasets(request: HttpRequest) -> HttpResponse:
    user = person(request)
    workspace, _mine = current_workspace(user, request.session)
    access.require_data_admin(user, workspace)
    form = NameForm(posted(request))
    if request.method == "POST" and form.is_valid():
        made = services.create_dataset(
            user=user, workspace=workspace, name=form.cleaned_data["name"], request=request
        )
        return redirect("dataset", made.pk)
    context = {"rows": list_rows(user, workspace), "form": form, "section": "data"}
    return render(request, "training/datasets.html", context, status=400 if form.errors else 200)


@never_cache
@login_required
@require_GET
def dataset(request: HttpRequest, dataset_id: UUID) -> HttpResponse:
    found = access.get_dataset(person(request), dataset_id)
    context = {
        "rename_form": NameForm(initial={"name": found.name}),
        "chunk_bytes": uploads.CHUNK_BYTES,
        "upload_strings": _upload_strings(),
    }
    return render(request, "training/dataset.html", page(found, "files") | file_table(found) | context)


def file_table(dataset: Dataset) -> dict[str, object]:
    """What training/files.html shows."""
    # In this order: once every file is read as looked at, the check that follows is there to be read; and once that is
    # read as ended, what came of it.
    files = list(dataset.files.annotate(copy_of=Subquery(_earlier_copies().values("name")[:1])))
    work = life.unfinished(dataset)
    states = {file.state for file in files}
    report = services.last_report(dataset)
    return {
        "files": files,
        "is_busy": SourceFile.State.DETECTING in states,
        "is_uploading": SourceFile.State.UPLOADING in states,
        "is_ready": SourceFile.State.READY in states,
        "report": report,
        "is_current": report is not None and services.is_current(report),
        "failed": services.last_failure(dataset, DataWork.Kind.REPORT),
        "work": work,
    }


def _earlier_copies() -> QuerySet[SourceFile]:
    """Files of the same bytes in the same dataset."""
    same = SourceFile.objects.filter(dataset=OuterRef("dataset"), sha256=OuterRef("sha256")).exclude(
        sha256=""
    )
    return same.filter(created_at__lt=OuterRef("created_at"))


def _upload_strings() -> dict[str, str]:
    """The sentences the page's script says."""
    return {
        "waiting": _("waiting"),
        "progress": _("{received} of {size}"),
        "done": _("uploaded"),
        "announceDone": _("{name} is uploaded."),
        "lost": _("The connection is lost. This goes on by itself when it is back."),
        "unreadable": _(
            "This file cannot be read any more: it was changed, moved or is a folder. Choose it again."
        ),
        "loggedOut": _("You are logged out. Log in again and choose the same file: it goes on where it was."),
        "failed": _("That did not work. Try again in a moment."),
        "cancelled": _("cancelled"),
    }


def page(dataset: Dataset, tab: str) -> dict[str, object]:
    """What every page about a dataset shows."""
    return {"dataset": dataset, "tab": tab, "section": "data"}


@login_required
@require_POST
def rename(request: HttpRequest, dataset_id: UUID) -> HttpResponse:
    found = access.get_dataset(person(request), dataset_id)
    services.rename_dataset(dataset=found, name=request.POST.get("name", ""))
    messages.success(request, _("Saved."))
    return redirect("dataset", found.pk)


@login_required
@require_POST
def delete(request: HttpRequest, dataset_id: UUID) -> HttpResponse:
    user = person(request)
    found = access.get_dataset(user, dataset_id)
    services.delete_dataset(dataset=found, user=user, request=request)
    messages.success(request, _("%(name)s is deleted, with its files.") % {"name": found.name})
    return redirect("datasets")


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def file(request: HttpRequest, file_id: UUID) -> HttpResponse:
    looking = life.looking_at(file_id)  # first, as in file_table
    found = access.get_file(person(request), file_id)
    form = ReadingForm(posted(request), file=found)
    status = 400 if form.errors else 200
    if request.method == "POST" and form.is_valid():
        try:
            services.correct_reading(file=found, reading=form.reading())
        except UserError as error:
            form.add_error(None, error.message)
            status = error.status
        else:
            if found.state == SourceFile.State.DETECTING:
                messages.success(request, _("Saved. The file is being looked at again, read as you said."))
                return redirect("dataset_file", found.pk)
            messages.success(request, _("Saved. Check the data again to see what changes."))
            return redirect("dataset", found.dataset_id)
    columns, rows = first_rows(found)
    columns = columns or list(dict.fromkeys(name for row in rows for name in row))
    context = {
        "file": found,
        "looking": looking,
        "form": form,
        "columns": columns,
        "unused": unused_columns(found),
        "rows": [[row.get(column, "") for column in columns] for row in rows],
    }
    return render(request, "training/file.html", page(found.dataset, "files") | context, status=status)


@never_cache
@login_required
@require_GET
def work(request: HttpRequest, work_id: UUID) -> HttpResponse:
    """The progress of a piece of work, as a fragment."""
    return render(request, "training/work.html", {"work": access.get_work(person(request), work_id)})


@login_required
@require_POST
def cancel(request: HttpRequest, work_id: UUID) -> HttpResponse:
    found = access.get_work(person(request), work_id)
    life.cancel_work(work=found)
    names = {
        DataWork.Kind.PREVIEW: "dataset_clean",
        DataWork.Kind.FREEZE: "dataset_versions",
        DataWork.Kind.REPORT: "dataset_report",
    }
    return redirect(names.get(DataWork.Kind(found.kind), "dataset"), found.dataset_id)
