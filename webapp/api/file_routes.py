"""/v1/files: what programs upload to learn from, and the results that jobs leave. A file is in a dataset of its own,
where its report is; files of datasets that people made on the pages are listed, too."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any, Literal

from django.db import transaction
from django.http import HttpRequest, StreamingHttpResponse
from django.utils.translation import gettext as _
from ninja import Query, Router, Schema

from training import access, file_status, services, storage, uploads
from training.models import ResultFile, SourceFile
from training.upload_handler import IncomingFile, read_form
from webapp.api.auth import Needs
from webapp.api.callers import Caller, caller
from webapp.api.errors import Unsupported
from webapp.api.ids import key_of, public_id
from webapp.api.lists import Order, page_by_time, place_of
from webapp.api.schemas import errors
from webapp.core.downloads import attachment, pieces_of
from webapp.core.errors import NotFound, UserError

router = Router(auth=Needs("files"))
RESULTS_NAME = "step_metrics.csv"
Purpose = Literal["fine-tune", "fine-tune-results"]
# OpenAI's others: a list of what is not kept here is empty.
NoPurpose = Literal[
    "assistants", "assistants_output", "batch", "batch_output", "vision", "user_data", "evals"
]


class File(Schema):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: None = None
    filename: str
    purpose: Purpose
    status: Literal["uploaded", "processed", "error"]
    status_details: str | None = None  # what is wrong with it, with file and line
    dataset: str | None = None  # where its report is: /v1/datasets/DATASET/report


class Files(Schema):
    object: Literal["list"] = "list"
    data: list[File]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(Schema):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


def _form(**fields: dict[str, Any]) -> dict[str, Any]:
    """How a form with a file is described: ninja would read it before it is known who sends it."""
    properties = {"file": {"type": "string", "format": "binary"}, **fields}
    schema = {"type": "object", "required": [*properties], "properties": properties}
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}},
        "responses": errors([507]),  # and only there the disk may be full
    }


FORM = _form(purpose={"type": "string", "enum": ["fine-tune"]})
FORM_OF_FILE = _form()
CONTENT: dict[str, Any] = {
    "responses": {
        200: {
            "description": "The file as it was sent",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    }
}


@router.post("", response=File, summary="Upload a file", openapi_extra=FORM)
def create_file(request: HttpRequest) -> Any:
    """One file for fine-tuning: chat JSONL as OpenAI has it, or anything else that a dataset takes (CSV, Parquet, plain
    text, PDF, ...). It is looked at and checked at once; `status` says when, and what is wrong."""
    who = caller(request)
    upload = sent_file(request, ("purpose",))
    purpose = request.POST.get("purpose")
    if purpose is None:
        message = _("“purpose” is missing: “fine-tune” says what the file is for.")
        raise UserError("missing_required_parameter", message, param="purpose")
    if purpose != "fine-tune":
        message = _("Files are for fine-tuning here: the only purpose is “fine-tune”, and not “%(purpose)s”.")
        raise UserError("unsupported_value", message % {"purpose": purpose[:60]}, param="purpose")
    with transaction.atomic():
        name = uploads.clean_name(upload.name or "")
        dataset = services.create_dataset(
            user=who.user, workspace=who.workspace, name=name[:120], is_for_file=True, request=request
        )
        file = uploads.keep_file(dataset=dataset, name=name, incoming=upload.incoming)
    return as_file(file)


def sent_file(request: HttpRequest, fields: tuple[str, ...]) -> IncomingFile:
    """The form's one file. Raises UserError where there is none, or something beside it that nobody knows."""
    if request.content_type != "multipart/form-data":
        raise UserError(
            "unsupported_media_type",
            _("Send the file as a form: multipart/form-data, with the file in its field “file”."),
            status=415,
        )
    read_form(request)
    for name in (*request.POST, *request.FILES):
        if name not in (*fields, "file"):
            raise Unsupported(name[:100].partition("[")[0])
    upload = request.FILES.get("file")
    if not isinstance(upload, IncomingFile):
        raise UserError(
            "missing_required_parameter",
            _("“file” is missing: the form has no file of that name."),
            param="file",
        )
    return upload


@router.get("", response=Files, summary="List files")
def list_files(
    request: HttpRequest,
    purpose: Purpose | NoPurpose | None = None,
    limit: int = Query(10_000, ge=1, le=10_000),
    order: Order = "desc",
    after: str | None = None,
) -> Any:
    """The workspace's, the newest first. `after` is the last id of the page before."""
    who = caller(request)
    tables: list[Any] = []
    if purpose in (None, "fine-tune"):
        tables.append(access.list_files(who.user, who.workspace))
    if purpose in (None, "fine-tune-results"):
        tables.append(access.list_results(who.user, who.workspace))
    last = place_of(after, lambda text: file_of(who, text))
    page, has_more = page_by_time(tables, after=last, limit=limit, order=order)
    data = as_files(page)
    return Files(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=has_more,
    )


@router.get("/{file_id}", response=File, summary="Retrieve a file")
def retrieve_file(request: HttpRequest, file_id: str) -> Any:
    return as_file(file_of(caller(request), file_id))


@router.delete("/{file_id}", response=DeletedFile, summary="Delete a file")
def delete_file(request: HttpRequest, file_id: str) -> Any:
    """With its report and the versions that were frozen of it, unless a job that has not ended needs them (409). Jobs
    and models that came of it stay."""
    who = caller(request)
    file = file_of(who, file_id)
    if isinstance(file, ResultFile):
        file.delete()
    else:
        services.delete_file(file=file, user=who.user, request=request)
    return DeletedFile(id=file_id)


@router.get("/{file_id}/content", summary="Download a file", openapi_extra=CONTENT)
def file_content(request: HttpRequest, file_id: str) -> Any:
    """As it was uploaded."""
    file = file_of(caller(request), file_id)
    path = storage.result_path(file.job_id) if isinstance(file, ResultFile) else storage.source_path(file)
    return download(path, public_id("file", file.id))


def download(path: Path, name: str) -> StreamingHttpResponse:
    """Raises NotFound where the bytes are gone from the disk."""
    try:
        found = path.lstat()
    except FileNotFoundError as error:
        raise NotFound(_("That file")) from error
    if not stat.S_ISREG(found.st_mode):
        raise NotFound(_("That file"))
    return attachment(pieces_of(path), name=name, size=found.st_size)


def file_of(who: Caller, text: str) -> SourceFile | ResultFile:
    """Raises NotFound."""
    key = key_of("file", text)
    try:
        return access.get_result(who.user, key, within=who.workspace)
    except NotFound:
        return access.get_file(who.user, key, within=who.workspace)


def as_file(file: SourceFile | ResultFile) -> File:
    return as_files([file])[0]


def as_files(files: list[SourceFile | ResultFile]) -> list[File]:
    found = file_status.statuses([file for file in files if isinstance(file, SourceFile)])
    return [
        _as_result(file) if isinstance(file, ResultFile) else _as_source(file, found[file.id])
        for file in files
    ]


def _as_source(file: SourceFile, status: file_status.FileStatus) -> File:
    return File(
        id=public_id("file", file.id),
        bytes=file.size,
        created_at=int(file.created_at.timestamp()),
        filename=file.name,
        purpose="fine-tune",
        status=status.word,
        status_details=status.details,
        dataset=public_id("dataset", file.dataset_id),
    )


def _as_result(file: ResultFile) -> File:
    return File(
        id=public_id("file", file.id),
        bytes=file.size,
        created_at=int(file.created_at.timestamp()),
        filename=RESULTS_NAME,
        purpose="fine-tune-results",
        status="processed",
    )
