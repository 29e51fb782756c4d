"""What the page's script speaks with while it uploads: begin, send a part, ask how much is there, remove."""

from __future__ import annotations

import json
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from training import access, services, uploads
from training.models import SourceFile
from training.views import file_table
from webapp.accounts.requests import person
from webapp.core.errors import UserError
from webapp.core.middleware import wants_json


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def files(request: HttpRequest, dataset_id: UUID) -> HttpResponse:
    """GET: the table of files, as a fragment. POST `{"name", "size", "modified"}`: where to send the file to."""
    dataset = access.get_dataset(person(request), dataset_id)
    if request.method == "GET":
        return render(request, "training/files.html", {"dataset": dataset} | file_table(dataset))
    name, size, modified = _announced(request)
    file = uploads.begin_upload(dataset=dataset, name=name, size=size, modified=modified)
    return JsonResponse(_progress(file), status=201)


def _announced(request: HttpRequest) -> tuple[str, int, int]:
    try:
        asked = json.loads(request.body)
        name, size, modified = asked["name"], asked["size"], asked.get("modified", 0)
        if not isinstance(name, str) or type(size) is not int or type(modified) is not int:
            raise TypeError
        if abs(modified) >= 2**53:
            raise ValueError
        name.encode()  # half a surrogate pair is text to JSON, and to nobody else
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError("bad_request", _("Say the file's name and size.")) from None
    return name, size, modified


@never_cache
@login_required
@require_http_methods(["GET", "PUT"])
def content(request: HttpRequest, file_id: UUID) -> HttpResponse:
    """GET: how much has arrived. PUT with `?offset=`: the next part of it, at most CHUNK_BYTES."""
    file = access.get_file(person(request), file_id)
    if request.method == "GET":
        return JsonResponse(_progress(uploads.as_on_disk(file=file)))
    try:
        file = uploads.receive_chunk(
            file=file,
            offset=_number(request.GET.get("offset")),
            length=_number(request.headers.get("Content-Length")),
            body=request,
        )
    except uploads.WrongOffset as error:
        answer = {"code": error.code, "message": error.message, "received": error.received}
        return JsonResponse({"error": answer}, status=error.status)
    return JsonResponse(_progress(file))


def _number(text: str | None) -> int:
    if text is None or not (text.isascii() and text.isdigit() and len(text) < 16):
        raise UserError("bad_request", _("Say where this part begins, and how long it is."))
    return int(text)


def _progress(file: SourceFile) -> dict[str, object]:
    return {
        "id": str(file.pk),
        "content": reverse("dataset_file_content", args=[file.pk]),
        "remove": reverse("dataset_file_remove", args=[file.pk]),
        "received": file.received,
        "size": file.size,
        "state": file.state,
    }


@login_required
@require_POST
def remove(request: HttpRequest, file_id: UUID) -> HttpResponse:
    file = access.get_file(person(request), file_id)
    services.remove_file(file=file)
    if wants_json(request):
        return JsonResponse({})
    messages.success(request, _("%(name)s is removed.") % {"name": file.name})
    return redirect("dataset", file.dataset_id)
