"""From rows of datasets to what programs read of them. Knows nothing of requests."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from training import services, storage
from training.datasets.problems import Problem as FoundProblem
from training.first_rows import first_rows
from training.models import Dataset, DatasetVersion, DataWork, SourceFile
from training.problem_list import read_problems
from webapp.api import dataset_schemas as schemas
from webapp.api.file_routes import as_files
from webapp.api.ids import public_id


def as_dataset(dataset: Dataset, last: DataWork | None) -> schemas.Dataset:
    """`last`: what was begun last with it."""
    files, versions = list(dataset.files.all()), list(dataset.versions.all())
    return schemas.Dataset(
        id=public_id("dataset", dataset.id),
        name=dataset.name,
        created_at=int(dataset.created_at.timestamp()),
        updated_at=int(dataset.updated_at.timestamp()),
        files=len(files),
        bytes=sum(file.size for file in files),
        versions=sum(version.state == DatasetVersion.State.READY for version in versions),
        work=last.kind if last is not None and last.is_unfinished else None,
    )


def as_work(work: DataWork | None) -> schemas.Work | None:
    if work is None:
        return None
    failed = work.state == DataWork.State.FAILED
    return schemas.Work(
        status=cast(Any, work.state),
        stage=work.stage or None,
        percent=work.percent,
        error=schemas.WorkError(code=work.error_code, message=work.error_message) if failed else None,
    )


def as_dataset_files(files: list[SourceFile]) -> list[schemas.DatasetFile]:
    answers = []
    for file, told in zip(files, as_files([*files]), strict=True):
        columns, rows = first_rows(file)
        reading = schemas.Reading(**file.reading) if file.reading else None
        error = None
        if file.state == SourceFile.State.UNREADABLE:
            error = schemas.WorkError(code=file.refusal.code, message=file.refusal.reason)
        answers.append(
            schemas.DatasetFile(
                **told.dict(),
                reading=reading,
                columns=columns,
                rows=rows,
                notices=(file.detected or {}).get("notices", []),
                error=error,
            )
        )
    return answers


def last_work(dataset: Dataset, kind: str) -> DataWork | None:
    return dataset.work.filter(kind=kind).order_by("-created_at", "-id").first()


# --- Reports -----------------------------------------------------------------------------------------------------
def as_report(dataset: Dataset) -> schemas.Report | None:
    """None where it was never checked."""
    work = last_work(dataset, DataWork.Kind.REPORT)
    if work is None:
        return None
    made = services.last_report(dataset)
    return schemas.Report(
        dataset=public_id("dataset", dataset.id),
        work=as_work(work),
        is_current=made is not None and services.is_current(made),
        created_at=int(made.created_at.timestamp()) if made is not None else None,
        found=_found(made.result) if made is not None and made.result else None,
    )


def _found(result: dict[str, Any]) -> schemas.Found:
    told = {name: result[name] for name in schemas.Found.model_fields if name in result}
    severities = result.get("severities", {})
    told["examples"] = result["read"]
    told["problems"] = [
        {"code": each["name"], "severity": severities.get(each["name"], ""), "count": each["count"]}
        for each in result["problems"]
    ]
    # msgspec leaves out what is as usual.
    usual: dict[str, Any] = {"target_model": None, "values": None}
    usual |= dict.fromkeys(("max_tokens", "seconds", "languages_of", "more_labels"), 0)
    return schemas.Found.model_validate(usual | told | {"target_model": result.get("target_model") or None})


def page_of_problems(
    report: DataWork, *, code: str, after: int, limit: int
) -> tuple[list[schemas.Problem], bool]:
    """From the problem after number `after`, counted from 1 in the order in which they were found."""
    found: list[schemas.Problem] = []
    for number, problem in enumerate(read_problems(storage.work_folder(report)), 1):
        if number <= after or (code and problem.code != code):
            continue
        if len(found) == limit:
            return found, True
        found.append(_problem(number, problem))
    return found, False


def _problem(number: int, problem: FoundProblem) -> schemas.Problem:
    told = msgspec.structs.asdict(problem)
    return schemas.Problem(id=f"problem-{number}", **told | {"line": problem.line or None})


# --- Cleaning and versions -------------------------------------------------------------------------------------------
def as_cleaning(dataset: Dataset) -> schemas.Cleaning | None:
    """None where effects were never counted."""
    work = last_work(dataset, DataWork.Kind.PREVIEW)
    if work is None:
        return None
    is_ready = work.state == DataWork.State.READY
    return schemas.Cleaning(
        dataset=public_id("dataset", dataset.id),
        work=as_work(work),
        recipe=work.parameters["recipe"],
        effects=_effects(work.result) if is_ready else None,
    )


def _effects(found: Any) -> list[schemas.Effect]:
    usual = {"added": 0, "samples": [], "splits": {}}
    return [schemas.Effect.model_validate(usual | effect) for effect in found or []]


def as_version(version: DatasetVersion) -> schemas.Version:
    manifest = version.manifest or {}
    is_ready = version.state == DatasetVersion.State.READY
    return schemas.Version(
        id=public_id("version", version.id),
        dataset=public_id("dataset", version.dataset_id),
        number=version.number,
        created_at=int(version.created_at.timestamp()),
        status=cast(Any, version.state),
        work=None if is_ready else as_work(version.work),
        recipe=version.recipe,
        kind=version.kind or None,
        content_hash=version.content_hash or None,
        train=version.train,
        validation=version.validation,
        test=version.test,
        labels=manifest.get("labels", []),
        effects=_effects(manifest.get("effects")),
    )
