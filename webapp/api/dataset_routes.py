"""/v1/datasets: files that are checked, cleaned and frozen together, as on the pages of data. Flywheel's own.

A program that only wants to fine-tune needs none of this: /v1/files and /v1/fine_tuning/jobs do it all.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec
from django.http import HttpRequest
from django.utils.translation import gettext as _
from ninja import Query, Router

from inference.access import models_for
from training import access, services, storage, uploads
from training import work as life
from training.datasets.sources import Reading as HowRead
from training.forms import ENCODINGS, FIELDS
from training.models import Dataset, DatasetVersion, SourceFile
from training.recipes import recipe_of
from webapp.api import dataset_schemas as schemas
from webapp.api.auth import Needs
from webapp.api.callers import Caller, caller
from webapp.api.dataset_answers import (
    as_cleaning,
    as_dataset,
    as_dataset_files,
    as_report,
    as_version,
    page_of_problems,
)
from webapp.api.errors import ModelNotFound
from webapp.api.file_routes import CONTENT, FORM_OF_FILE, download, sent_file
from webapp.api.ids import key_of
from webapp.api.lists import Order, no_such_place, page_by_time, place_of
from webapp.core.errors import NotFound, UserError

router = Router(auth=Needs("files"))
_PROBLEM = re.compile(r"problem-([0-9]{1,9})")


# --- Datasets ----------------------------------------------------------------------------------------------------
@router.get("", response=schemas.Datasets, summary="List datasets")
def list_datasets(
    request: HttpRequest,
    limit: int = Query(20, ge=1, le=100),
    order: Order = "desc",
    after: str | None = None,
) -> Any:
    """The workspace's, the newest first; each uploaded file has one, too."""
    who = caller(request)
    last = place_of(after, lambda text: _dataset(who, text))
    rows = access.list_datasets(who.user, who.workspace)
    page, has_more = page_by_time([rows], after=last, limit=limit, order=order)
    works = access.last_work(page)
    data = [as_dataset(dataset, works.get(dataset.id)) for dataset in page]
    return schemas.Datasets(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=has_more,
    )


@router.post("", response=schemas.Dataset, summary="Create a dataset")
def create_dataset(request: HttpRequest, body: schemas.NameDataset) -> Any:
    """Files are added to it one by one."""
    who = caller(request)
    with_name = services.create_dataset(
        user=who.user, workspace=who.workspace, name=body.name, request=request
    )
    return _told(with_name)


@router.get("/{dataset_id}", response=schemas.Dataset, summary="Retrieve a dataset")
def retrieve_dataset(request: HttpRequest, dataset_id: str) -> Any:
    return _told(_dataset(caller(request), dataset_id))


@router.post("/{dataset_id}", response=schemas.Dataset, summary="Rename a dataset")
def rename_dataset(request: HttpRequest, dataset_id: str, body: schemas.NameDataset) -> Any:
    return _told(services.rename_dataset(dataset=_dataset(caller(request), dataset_id), name=body.name))


@router.delete("/{dataset_id}", response=schemas.DeletedDataset, summary="Delete a dataset")
def delete_dataset(request: HttpRequest, dataset_id: str) -> Any:
    """With its files, reports and versions, unless a job that has not ended needs them (409)."""
    who = caller(request)
    services.delete_dataset(dataset=_dataset(who, dataset_id), user=who.user, request=request)
    return schemas.DeletedDataset(id=dataset_id)


@router.post("/{dataset_id}/cancel", response=schemas.Dataset, summary="Cancel what is done with a dataset")
def cancel_work(request: HttpRequest, dataset_id: str) -> Any:
    """A check, a count of effects or a freezing. Nothing is changed by what is cancelled."""
    dataset = _dataset(caller(request), dataset_id)
    work = life.unfinished(dataset)
    if work is not None:
        life.cancel_work(work=work)
    return _told(dataset)


# --- Its files ---------------------------------------------------------------------------------------------------
@router.get("/{dataset_id}/files", response=schemas.DatasetFiles, summary="List its files")
def list_files(request: HttpRequest, dataset_id: str) -> Any:
    """Each with how it is read and its first rows."""
    dataset = _dataset(caller(request), dataset_id)
    arrived = dataset.files.exclude(state=SourceFile.State.UPLOADING)
    return schemas.DatasetFiles(data=as_dataset_files(list(arrived)))


@router.post(
    "/{dataset_id}/files",
    response=schemas.DatasetFile,
    summary="Add a file",
    openapi_extra=FORM_OF_FILE,
)
def add_file(request: HttpRequest, dataset_id: str) -> Any:
    """It is looked at, and where it is the dataset's first one, checked."""
    dataset = _dataset(caller(request), dataset_id)
    upload = sent_file(request, ())
    file = uploads.keep_file(dataset=dataset, name=upload.name or "", incoming=upload.incoming)
    return as_dataset_files([file])[0]


@router.post(
    "/{dataset_id}/files/{file_id}",
    response=schemas.DatasetFile,
    summary="Say how a file is read",
)
def correct_file(request: HttpRequest, dataset_id: str, file_id: str, body: schemas.Reading) -> Any:
    """What was found may be wrong: another shape, other columns. Where its layout, encoding, delimiter or sheet,
    or of a workbook its header, is another, it is looked at again, and is `uploaded` until then. The dataset has to be
    checked again afterwards."""
    who = caller(request)
    file = access.get_file(who.user, key_of("file", file_id), within=who.workspace)
    if file.dataset_id != _dataset(who, dataset_id).pk:
        raise NotFound(_("That file"))
    unknown = sorted({*body.columns} - {*FIELDS[body.shape]})
    if unknown:
        message = _("“%(name)s” is no field of this shape; it has %(fields)s.")
        values = {"name": unknown[0][:60], "fields": ", ".join(FIELDS[body.shape])}
        raise UserError("invalid_value", message % values, param="columns")
    if body.encoding not in ENCODINGS and body.encoding != (file.reading or {}).get("encoding"):
        message = _("There is no encoding “%(name)s” here; there are %(names)s.")
        values = {"name": body.encoding, "names": ", ".join(ENCODINGS)}
        raise UserError("invalid_value", message % values, param="encoding")
    reading = msgspec.convert(body.dict(), HowRead)
    return as_dataset_files([services.correct_reading(file=file, reading=reading)])[0]


# --- Its report --------------------------------------------------------------------------------------------------
@router.post("/{dataset_id}/report", response=schemas.Report, summary="Check a dataset")
def start_report(request: HttpRequest, dataset_id: str, body: schemas.StartReport) -> Any:
    """The first check begins by itself. `work` of the report says how far it is."""
    who = caller(request)
    dataset = _dataset(who, dataset_id)
    asked: dict[str, Any] = dict(services.report_defaults(services.last_report(dataset)))
    if body.model is not None:
        if body.model and not models_for(who.workspace).filter(name=body.model, base=None).exists():
            raise ModelNotFound(body.model)
        asked["model"] = body.model
    if body.max_tokens is not None:
        asked["max_tokens"] = body.max_tokens
    if body.evaluation is not None:
        asked["evaluation"] = str(_version(who, body.evaluation).pk) if body.evaluation else ""
    services.start_report(dataset=dataset, **asked)
    return as_report(dataset)


@router.get("/{dataset_id}/report", response=schemas.Report, summary="Retrieve the report")
def retrieve_report(request: HttpRequest, dataset_id: str) -> Any:
    """What the last check found, and how far the one that goes on is."""
    report = as_report(_dataset(caller(request), dataset_id))
    if report is None:
        raise NotFound(_("That report"))
    return report


@router.get("/{dataset_id}/report/problems", response=schemas.Problems, summary="List the problems")
def list_problems(
    request: HttpRequest,
    dataset_id: str,
    code: str = Query("", max_length=60),
    limit: int = Query(100, ge=1, le=1000),
    after: str | None = None,
) -> Any:
    """With file, line, excerpt, reason and remedy, in the order in which they were found; the first 1,000 of each code.
    The report counts them all."""
    made = services.last_report(_dataset(caller(request), dataset_id))
    if made is None:
        raise NotFound(_("That report"))
    last = _PROBLEM.fullmatch(after) if after is not None else None
    if after is not None and last is None:
        raise no_such_place(after)
    data, has_more = page_of_problems(made, code=code, after=int(last[1]) if last else 0, limit=limit)
    return schemas.Problems(data=data, has_more=has_more)


# --- Cleaning ----------------------------------------------------------------------------------------------------
@router.post("/{dataset_id}/cleaning", response=schemas.Cleaning, summary="Count effects")
def start_cleaning(request: HttpRequest, dataset_id: str, body: schemas.RecipeBody) -> Any:
    """What each step of a recipe would do. Nothing is changed: a version is frozen with the recipe."""
    dataset = _dataset(caller(request), dataset_id)
    services.start_preview(dataset=dataset, recipe=recipe_of(body.recipe))
    return as_cleaning(dataset)


@router.get("/{dataset_id}/cleaning", response=schemas.Cleaning, summary="Retrieve the effects")
def retrieve_cleaning(request: HttpRequest, dataset_id: str) -> Any:
    """Those of the recipe that was counted last."""
    cleaning = as_cleaning(_dataset(caller(request), dataset_id))
    if cleaning is None:
        raise NotFound(_("That count of effects"))
    return cleaning


# --- Its versions ------------------------------------------------------------------------------------------------
@router.post("/{dataset_id}/versions", response=schemas.Version, summary="Freeze a version")
def freeze(request: HttpRequest, dataset_id: str, body: schemas.RecipeBody) -> Any:
    """What a job can learn from (its `training_file`). The same recipe of the same files is the same version: the id
    that is answered then stands for the earlier one."""
    who = caller(request)
    version = services.start_freeze(
        dataset=_dataset(who, dataset_id), recipe=recipe_of(body.recipe), user=who.user, request=request
    )
    return as_version(version)


@router.get("/{dataset_id}/versions", response=schemas.Versions, summary="List versions")
def list_versions(request: HttpRequest, dataset_id: str) -> Any:
    """The newest first."""
    dataset = _dataset(caller(request), dataset_id)
    return schemas.Versions(data=[as_version(each) for each in dataset.versions.select_related("work")])


@router.get(
    "/{dataset_id}/versions/{version_id}",
    response=schemas.Version,
    summary="Retrieve a version",
)
def retrieve_version(request: HttpRequest, dataset_id: str, version_id: str) -> Any:
    return as_version(_version_of(caller(request), dataset_id, version_id))


@router.delete(
    "/{dataset_id}/versions/{version_id}",
    response=schemas.DeletedVersion,
    summary="Delete a version",
)
def delete_version(request: HttpRequest, dataset_id: str, version_id: str) -> Any:
    """Unless a job that has not ended needs it (409)."""
    who = caller(request)
    version = _version_of(who, dataset_id, version_id)
    services.delete_version(version=version, user=who.user, request=request)
    return schemas.DeletedVersion(id=version_id)


@router.get(
    "/{dataset_id}/versions/{version_id}/content",
    summary="Download a split",
    openapi_extra=CONTENT,
)
def version_content(
    request: HttpRequest, dataset_id: str, version_id: str, split: Literal["train", "validation", "test"]
) -> Any:
    """JSON Lines of its examples."""
    version = _version_of(caller(request), dataset_id, version_id)
    if version.state != DatasetVersion.State.READY:
        raise NotFound(_("That file"))
    path = storage.version_folder(version) / f"{split}.jsonl"
    return download(path, f"dataset-{version.content_hash[:12]}-{split}.jsonl")


# --- Rows --------------------------------------------------------------------------------------------------------
def _dataset(who: Caller, text: str) -> Dataset:
    """Raises NotFound."""
    return access.get_dataset(who.user, key_of("dataset", text), within=who.workspace)


def _told(dataset: Dataset) -> schemas.Dataset:
    return as_dataset(dataset, access.last_work([dataset]).get(dataset.id))


def _version(who: Caller, text: str) -> DatasetVersion:
    """Raises NotFound."""
    return access.get_version(who.user, key_of("version", text), within=who.workspace)


def _version_of(who: Caller, dataset_id: str, text: str) -> DatasetVersion:
    """Also the one that an id came to which was the same as an earlier one. Raises NotFound."""
    dataset, key = _dataset(who, dataset_id), key_of("version", text)
    version = services.version_made(dataset, key) if key is not None else None
    if version is None:
        raise NotFound(_("That version"))
    return version
