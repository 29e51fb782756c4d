"""Every write to datasets that a person asks for: made, named, corrected, checked, frozen, deleted.

What these return is committed; what follows happens on commit. Uploads are in uploads.py, the life of work in work.py.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable
from functools import partial

import msgspec
from django.db import transaction
from django.db.models import Max
from django.dispatch import receiver
from django.http import HttpRequest
from django.utils.translation import gettext as _

from inference.models import ServedModel
from training import storage, work
from training.datasets.recipe import Recipe
from training.datasets.sources import Reading
from training.first_rows import columns_of
from training.job_services import require_unused
from training.models import Dataset, DatasetVersion, DataWork, SourceFile
from webapp.accounts.audit import record_audit
from webapp.accounts.models import User, Workspace
from webapp.core.errors import UserError
from webapp.core.locks import lock_until_commit

Kind, State = DataWork.Kind, DataWork.State
MAX_DATASETS = 1000
DEFAULT_MAX_TOKENS = 2048


def clean_name(name: str) -> str:
    """Raises UserError `bad_name`."""
    name = " ".join("".join(letter for letter in name if letter.isprintable()).split())
    if not name or len(name) > 120:
        raise UserError("bad_name", _("A dataset needs a name of 1 to 120 letters."))
    return name


@transaction.atomic
def create_dataset(
    *,
    user: User,
    workspace: Workspace,
    name: str,
    is_for_file: bool = False,
    request: HttpRequest | None = None,
) -> Dataset:
    """Raises UserError `bad_name`, `too_many`."""
    lock_until_commit(f"training.datasets.{workspace.pk}")
    if Dataset.objects.filter(workspace=workspace).count() >= MAX_DATASETS:
        raise UserError(
            "too_many",
            _("This workspace has %(limit)s datasets, which is the most. Delete one first.")
            % {"limit": MAX_DATASETS},
        )
    dataset = Dataset.objects.create(
        workspace=workspace, name=clean_name(name), created_by=user, is_for_file=is_for_file
    )
    _record("dataset_created", dataset, user, request)
    return dataset


def rename_dataset(*, dataset: Dataset, name: str) -> Dataset:
    """Raises UserError `bad_name`."""
    dataset.name = clean_name(name)
    dataset.save(update_fields=["name", "updated_at"])
    return dataset


@transaction.atomic
def delete_dataset(*, dataset: Dataset, user: User | None, request: HttpRequest | None = None) -> None:
    """With its files, reports and versions. What a worker does with it ends. `user`: None where its time has passed.

    Raises UserError `version_in_use`, `file_in_use`.
    """
    work.lock_dataset(dataset.pk)
    files = dataset.files.values_list("id", flat=True)
    require_unused(dataset.versions.all(), dataset.workspace, files)
    _record("dataset_deleted", dataset, user, request)
    dataset.delete()  # signals.py sees to the files


@transaction.atomic
def remove_file(*, file: SourceFile) -> None:
    """With what checks keep of what it says; a version that was frozen of it stays.

    Raises UserError `dataset_busy`, `file_in_use`.
    """
    _require_idle(file.dataset)
    require_unused([], file.dataset.workspace, [file.pk])
    _forget_examples(file.dataset)
    file.delete()
    file.dataset.save(update_fields=["updated_at"])
    start_first_report(dataset=file.dataset)


def _forget_examples(dataset: Dataset) -> None:
    """Whatever checks keep of what its files say. Their figures stay until the next."""
    dataset.work.filter(kind=Kind.PREVIEW).delete()
    for check in dataset.work.filter(kind=Kind.REPORT):
        transaction.on_commit(partial(storage.remove_attempts, check))
        check.parameters["sources"] = ""  # it is of no files any more, also should the same come again
        if check.result:
            check.result["previews"] = []
        check.save(update_fields=["parameters", "result"])


@transaction.atomic
def delete_file(*, file: SourceFile, user: User, request: HttpRequest | None = None) -> None:
    """As programs see it: a dataset that was made for one file goes with its last one, and its versions with it.

    Raises UserError `dataset_busy`, `version_in_use`, `file_in_use`.
    """
    dataset = file.dataset
    if dataset.is_for_file and not dataset.files.exclude(pk=file.pk).exists():
        delete_dataset(dataset=dataset, user=user, request=request)
    else:
        remove_file(file=file)


@transaction.atomic
def correct_reading(*, file: SourceFile, reading: Reading) -> SourceFile:
    """How the file is to be read, as a person says. Where other characters or columns come of that, it is looked at
    again.

    Raises UserError `dataset_busy`, `not_yet`.
    """
    _require_idle(file.dataset)
    file.refresh_from_db(fields=["state", "reading", "detected"])  # somebody else may have said so, too
    if file.state not in (SourceFile.State.READY, SourceFile.State.UNREADABLE):
        raise UserError("not_yet", _("This file has not been looked at yet. Wait a moment."), status=409)
    seen = msgspec.convert(file.reading, Reading) if file.state == SourceFile.State.READY else None
    wanted = msgspec.to_builtins(reading)
    if seen is not None and _shows_the_same(seen, reading):
        # Who said how it is read has seen what there is to know of that.
        file.detected = (file.detected or {}) | {"notices": []}
    else:
        file.state = SourceFile.State.DETECTING
        is_same_table = seen is not None and (
            (seen.layout, seen.delimiter, seen.sheet) == (reading.layout, reading.delimiter, reading.sheet)
        )
        before = columns_of(file, header=reading.header) if is_same_table else []
        parameters = {"reading": wanted, "before": before}
        work.begin_work(dataset=file.dataset, kind=Kind.DETECT, parameters=parameters, file=file)
    file.reading, file.is_corrected = wanted, True
    file.save(update_fields=["reading", "is_corrected", "state", "detected"])
    file.dataset.save(update_fields=["updated_at"])
    return file


def _shows_the_same(seen: Reading, asked: Reading) -> bool:
    """Whether what was found in the file is what is found in it by the other, too. Of a header, first_rows.py knows;
    but above a sheet's there may be a title, which is a row only without."""
    names = [
        "layout",
        "encoding",
        "delimiter",
        "within",
        "sheet",
        *(["header"] if asked.layout == "xlsx" else []),
    ]
    return all(getattr(seen, name) == getattr(asked, name) for name in names)


@transaction.atomic
def start_report(*, dataset: Dataset, model: str = "", max_tokens: int = 0, evaluation: str = "") -> DataWork:
    """Checks all of the dataset's files. `model`: a ServedModel's name; `evaluation`: a version's id, or nothing.

    Raises UserError `dataset_busy`, `no_files`, `not_yet`.
    """
    _require_idle(dataset)
    files = list(dataset.files.all())
    if any(file.state in (SourceFile.State.UPLOADING, SourceFile.State.DETECTING) for file in files):
        raise UserError(
            "not_yet", _("Some files have not arrived yet. Wait for them, or remove them."), status=409
        )
    if not any(file.state == SourceFile.State.READY for file in files):
        raise UserError("no_files", _("There is no file yet that can be read. Add one first."), status=409)
    parameters = {
        "model": model,
        "max_tokens": max_tokens,
        "evaluation": evaluation,
        **files_checked(readable_files(dataset), unreadable_files(dataset)),
    }
    return _begin(dataset, Kind.REPORT, parameters)


@receiver(work.looked_at)
def start_first_report(*, dataset: Dataset, **_: object) -> None:
    """Once every file has been looked at, the first check begins by itself; the next ones when somebody asks.

    For whatever may have been waited for last: the look at a file, or a file that has gone.
    """
    if dataset.work.filter(kind=Kind.REPORT).exists():
        return
    try:
        start_report(dataset=dataset, **report_defaults(None))  # type: ignore[arg-type]
    except UserError:
        return  # files are missing, or somebody was quicker


@transaction.atomic
def start_preview(*, dataset: Dataset, recipe: Recipe) -> DataWork:
    """Counts what a recipe would do. Raises UserError `dataset_busy`, `report_first`."""
    _require_idle(dataset)
    report = require_report(dataset)
    return _begin(dataset, Kind.PREVIEW, {"recipe": msgspec.to_builtins(recipe), "report": str(report.id)})


@transaction.atomic
def start_freeze(
    *,
    dataset: Dataset,
    recipe: Recipe,
    user: User | None,
    validation: DataWork | None = None,
    request: HttpRequest | None = None,
) -> DatasetVersion:
    """Makes a version of the dataset. `validation`: the report of another dataset of the workspace, whose examples are
    the validation split; the recipe names its sources as `split.given`.

    Raises UserError `dataset_busy`, `report_first`.
    """
    _require_idle(dataset)
    report, counted, wanted = require_report(dataset), last_preview(dataset), msgspec.to_builtins(recipe)
    parameters: dict[str, object] = {
        "recipe": wanted,
        "report": str(report.id),
        "counted": counted is not None and counted.parameters["recipe"] == wanted,
    }
    if validation is not None:
        parameters["validation"] = str(validation.id)
    made = uuid.uuid4()
    parameters["made"] = str(made)  # what is asked for the version, should it turn out to be an earlier one
    # Of those whose making failed there is nothing but the reason, which programs ask for until the next is begun.
    dataset.versions.filter(state=DatasetVersion.State.FAILED).delete()
    doing = _begin(dataset, Kind.FREEZE, parameters)
    version = DatasetVersion.objects.create(
        id=made,
        dataset=dataset,
        number=_next_number(dataset),
        work=doing,
        recipe=wanted,
        parent=report.parameters["sources"],
        created_by=user,
    )
    _record("dataset_frozen", dataset, user, request, version=version.number)
    return version


def _next_number(dataset: Dataset) -> int:
    """One that no version has, nor any that was frozen ever had."""
    numbers = Dataset.objects.filter(pk=dataset.pk).values_list("highest_version", Max("versions__number"))
    return max(number or 0 for number in numbers.get()) + 1


@transaction.atomic
def delete_version(*, version: DatasetVersion, user: User, request: HttpRequest | None = None) -> None:
    """Raises UserError `dataset_busy`, `version_in_use`."""
    _require_idle(version.dataset)
    require_unused([version], version.dataset.workspace)
    _record("dataset_version_deleted", version.dataset, user, request, version=version.number)
    version.delete()


# --- What is known of a dataset --------------------------------------------------------------------------------


def readable_files(dataset: Dataset) -> list[SourceFile]:
    return list(dataset.files.filter(state=SourceFile.State.READY))


def unreadable_files(dataset: Dataset) -> list[SourceFile]:
    return list(dataset.files.filter(state=SourceFile.State.UNREADABLE))


def files_checked(readable: list[SourceFile], unreadable: list[SourceFile]) -> dict[str, object]:
    """What of a report's parameters says which files it is of. It names those that cannot be read, too."""
    return {"sources": hash_of(readable), "unreadable": sorted(str(file.pk) for file in unreadable)}


def hash_of(files: Iterable[SourceFile]) -> str:
    """SHA-256 over files, each with how it is read: what a report and a version are made from."""
    whole = hashlib.sha256()
    for file in files:
        reading = msgspec.json.encode(file.reading, order="deterministic").decode()
        whole.update(f"{file.sha256} {reading}\n".encode())
    return whole.hexdigest()


def last_report(dataset: Dataset) -> DataWork | None:
    """The last check that came to its end."""
    return dataset.work.filter(kind=Kind.REPORT, state=State.READY).order_by("-finished_at").first()


def last_preview(dataset: Dataset) -> DataWork | None:
    """The last count of effects, if it is of the last report."""
    report = last_report(dataset)
    if report is None:
        return None
    counted = dataset.work.filter(kind=Kind.PREVIEW, state=State.READY, created_at__gt=report.created_at)
    return counted.order_by("-finished_at").first()


def last_recipe(dataset: Dataset) -> Recipe:
    """What a person asked for last, whatever came of it: counting that is cancelled costs nobody their switches."""
    kinds = (
        [Kind.PREVIEW] if dataset.is_for_file else [Kind.PREVIEW, Kind.FREEZE]
    )  # a program freezes as it likes
    last = dataset.work.filter(kind__in=kinds).order_by("-created_at").first()
    return msgspec.convert(last.parameters["recipe"], Recipe) if last is not None else Recipe()


def last_freeze(dataset: Dataset) -> DataWork | None:
    return dataset.work.filter(kind=Kind.FREEZE).order_by("-created_at").first()


def last_failure(dataset: Dataset, kind: str) -> DataWork | None:
    """The last work of a kind, where it failed."""
    last = dataset.work.filter(kind=kind).order_by("-created_at").first()
    return last if last is not None and last.state == State.FAILED else None


def version_made(dataset: Dataset, version_id: uuid.UUID) -> DatasetVersion | None:
    """The version of this id, or the earlier one that it turned out to be the same as."""
    versions = dataset.versions.select_related("dataset__workspace", "work")
    version = versions.filter(pk=version_id).first()
    if version is None:
        frozen = dataset.work.filter(kind=Kind.FREEZE, state=State.READY, parameters__made=str(version_id))
        result = frozen.values_list("result", flat=True).first()
        version = versions.filter(number=result["version"]).first() if result else None
    return version


def report_defaults(made: DataWork | None) -> dict[str, object]:
    """What the next check looks at, unless somebody says otherwise: the same as the last."""
    if made is not None:
        return {name: made.parameters[name] for name in ("model", "max_tokens", "evaluation")}
    model = ServedModel.objects.filter(is_default=True).first()
    if model is None:
        return {"model": "", "max_tokens": 0, "evaluation": ""}
    longest = min(DEFAULT_MAX_TOKENS, model.context_length)
    return {"model": model.name, "max_tokens": longest, "evaluation": ""}


def is_current(report: DataWork) -> bool:
    """Whether the files are still those that were checked, read in the same way."""
    checked = {"unreadable": []} | report.parameters
    now = files_checked(readable_files(report.dataset), unreadable_files(report.dataset))
    return all(checked[name] == value for name, value in now.items())


def require_report(dataset: Dataset) -> DataWork:
    """Raises UserError `report_first`."""
    report = last_report(dataset)
    if report is None or not is_current(report):
        raise UserError("report_first", _("Check the data first: its files have changed."), status=409)
    return report


def _begin(dataset: Dataset, kind: str, parameters: dict[str, object]) -> DataWork:
    doing = work.begin_work(dataset=dataset, kind=kind, parameters=parameters)
    dataset.save(update_fields=["updated_at"])
    return doing


def _require_idle(dataset: Dataset) -> None:
    """Raises UserError `dataset_busy`. Inside a transaction: what begins waits until this one has ended."""
    work.lock_dataset(dataset.pk)
    if work.unfinished(dataset) is not None:
        raise work.busy()


def _record(
    action: str, dataset: Dataset, user: User | None, request: HttpRequest | None, **detail: object
) -> None:
    record_audit(
        action=action,
        actor=user,
        workspace=dataset.workspace,
        request=request,
        detail={"dataset": str(dataset.pk), **detail},
    )
