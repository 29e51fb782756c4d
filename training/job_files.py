"""Jobs that are begun with files: these are checked, frozen as a version, and the job is queued, or fails.

    validating_files: a report of each file ─► a version of the training file's dataset ─► queued

All of it is made of rows, so `advance` may be called at any time and as often as one likes: it does what can be done
now, and whatever ends (a report, a freezing) has it called again. Reports and versions of the same file are used again.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.db import DatabaseError, transaction
from django.http import HttpRequest
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from inference.models import ServedModel
from training import job_life, services, storage
from training.datasets.recipe import Recipe, Split
from training.job_request import JobRequest
from training.job_services import check_base, check_length, check_room, check_start, clean_name, record_job
from training.job_tasks import send_prepare
from training.knobs import check_knobs, tasks_for, wrong_knobs
from training.models import Dataset, DatasetVersion, DataWork, Job, SourceFile
from training.problem_list import counts_of, first_error, spoken
from webapp.accounts.models import User, Workspace
from webapp.core import clock
from webapp.core.errors import UserError
from webapp.core.locks import lock_until_commit
from webapp.core.request_ids import current_request_id

logger = logging.getLogger(__name__)
State, Level = Job.State, job_life.Level
# Texts are learnt as they were sent: nobody looks at what cleaning would do before it is done.
AS_SENT = Recipe(
    repair_unicode=False,
    normalise_unicode="",
    whitespace=False,
    deduplicate="",
    drop_overlap=False,
    split=Split(validation=0.1, test=0.0),
)
# Labels and numbers are judged at the end, by what chose no checkpoint.
_JUDGED = Split(validation=0.1, test=0.1)
# Something is being done with the dataset, or has just been done to its files.
_WAITS = ("dataset_busy", "not_yet", "report_first")
# Rows keep sentences in English; pages translate them.
INTERNAL = gettext_noop(
    "Its data could not be prepared, by an error on our side. The server's log says more."
)
FILE_GONE = gettext_noop("The file was deleted before its data was frozen.")
NOT_ALONE = gettext_noop(
    "Another file was added to its dataset. Freeze a version of that, and begin with it."
)
CANCELLED = gettext_noop("The freezing of its data was cancelled.")
NO_TASK = gettext_noop("There is no training yet for data of this kind.")


@dataclass(frozen=True)
class FilesRequest:
    user: User
    workspace: Workspace
    training: SourceFile
    validation: SourceFile | None  # None: a share of the training file is held back
    base: ServedModel | None  # scratch: none
    task: str  # "": the usual one for what the file holds
    name: str
    spec: dict[str, Any]
    metadata: dict[str, str] = field(default_factory=dict)
    recipe: Recipe = AS_SENT
    skip_invalid: bool = False  # examples with errors are left out, and do not fail the job


class Unusable(Exception):
    """Of a file. `param`: which one, as the API calls it."""

    def __init__(self, code: str, message: str, param: str) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param


@transaction.atomic
def start_job_of_files(*, asked: FilesRequest, request: HttpRequest | None = None) -> Job:
    """Raises UserError `bad_name`, `bad_knobs`, `bad_base`, `base_missing`, `file_not_ready`, `file_of_several`,
    `too_many`. What only the files' content can tell fails the job later."""
    lock_until_commit(f"training.jobs.{asked.workspace.pk}")
    name = clean_name(asked.name)
    check_base(asked.base, asked.task)
    _check_knobs(asked)
    check_length(asked.base, asked.spec)
    for param, file in (("training_file", asked.training), ("validation_file", asked.validation)):
        if file is not None:
            _check_file(file, param)
    check_room(asked.workspace)
    job = Job.objects.create(
        workspace=asked.workspace,
        created_by=asked.user,
        name=name,
        task=asked.task,
        data_label=asked.training.name[:160],
        base=asked.base,
        spec=asked.spec,
        metadata=asked.metadata,
        request_id=current_request_id(),
        training_file=asked.training.pk,
        validation_file=asked.validation.pk if asked.validation is not None else None,
        preparing={"recipe": msgspec.to_builtins(asked.recipe), "skip_invalid": asked.skip_invalid},
        state=State.VALIDATING_FILES,
        sent_at=clock.now(),
    )
    job_life.add_event(job, "validating", "Its data is being checked.")
    send_prepare()
    record_job("job_started", job, asked.user, request)
    return job


def _check_knobs(asked: FilesRequest) -> None:
    """Where the files are yet to say what is learnt, what one task allows may pass."""
    if asked.task:
        check_knobs(asked.task, asked.spec)
    elif all(wrong_knobs(task, asked.spec) for task in Job.Task if task != Job.Task.SCRATCH):
        check_knobs(Job.Task.CHAT, asked.spec)


def _check_file(file: SourceFile, param: str) -> None:
    if file.state == SourceFile.State.UPLOADING:
        raise UserError(
            "file_not_ready",
            _("%(name)s has not arrived yet.") % {"name": file.name},
            status=409,
            param=param,
        )
    if file.dataset.files.count() > 1:
        raise UserError(
            "file_of_several",
            _(
                "%(name)s is one of several files of the dataset “%(dataset)s”. Freeze a version of that, and name the "
                "version here."
            )
            % {"name": file.name, "dataset": file.dataset.name},
            param=param,
        )


# --- What workers call -----------------------------------------------------------------------------------------
def advance_all() -> None:
    waiting = Job.objects.filter(state=State.VALIDATING_FILES).order_by("created_at", "id")
    for job_id in list(waiting.values_list("id", flat=True)):
        try:
            advance(job_id)
        except (DatabaseError, OSError):
            logger.exception("preparing job %s is left for later", job_id)
        except Exception:
            logger.exception("preparing job %s failed", job_id)
            _fail(job_id, "internal", INTERNAL, "")


def advance(job_id: UUID) -> None:
    """Does what can be done now. Nothing where the job waits for no files."""
    try:
        with transaction.atomic():
            # Before the locks of its dataset and its workspace, in the order in which all take them.
            lock_until_commit(f"training.job_files.{job_id}")
            rows = Job.objects.select_related("workspace", "base", "freezing", "created_by")
            job = rows.filter(id=job_id, state=State.VALIDATING_FILES).first()
            if job is not None:
                _advance(job)
    except Unusable as error:
        _fail(job_id, error.code, error.message, error.param)
    except UserError as error:
        _fail(job_id, error.code, error.message, error.param or "")


@transaction.atomic
def _fail(job_id: UUID, code: str, message: str, param: str) -> None:
    job = Job.objects.filter(id=job_id).first()
    told = {"error_code": code, "error_message": message, "error_param": param}
    if job is not None and job_life.change(
        job, expected=(State.VALIDATING_FILES,), state=State.FAILED, **told
    ):
        job_life.add_event(job, "failed", message, level=Level.ERROR, data={"code": code, "param": param})


class _Checked(NamedTuple):
    file: SourceFile
    report: DataWork


def _advance(job: Job) -> None:
    training = _checked(job, job.training_file, "training_file")
    validation = _checked(job, job.validation_file, "validation_file")
    if training is None or (job.validation_file is not None and validation is None):
        return
    version = _frozen(job, training, validation)
    if version is not None:
        _queue(job, version, [checked for checked in (training, validation) if checked is not None])


# --- A file ------------------------------------------------------------------------------------------------------
def _checked(job: Job, file_id: UUID | None, param: str) -> _Checked | None:
    """The file with its report, which is begun where there is none; None while it is not there. Raises Unusable."""
    if file_id is None:
        return None
    files = SourceFile.objects.select_related("dataset").filter(dataset__workspace=job.workspace_id)
    file = files.filter(id=file_id).first()
    if file is None:
        raise Unusable("file_not_found", FILE_GONE, param)
    if file.state == SourceFile.State.UNREADABLE:
        raise _invalid(f"{file.name}: {file.refusal.reason}", param)
    if file.state != SourceFile.State.READY:
        return None
    if not storage.source_path(file).is_file():
        raise Unusable("file_not_found", FILE_GONE, param)
    if file.dataset.files.count() > 1:
        raise Unusable("file_of_several", NOT_ALONE, param)
    report = _report(job, file.dataset, param)
    if report is None:
        return None
    _require_usable(job, file, report, param)
    return _Checked(file, report)


def _report(job: Job, dataset: Dataset, param: str) -> DataWork | None:
    made = services.last_report(dataset)
    if made is not None and services.is_current(made) and storage.work_folder(made).is_dir():
        return made
    failed = services.last_failure(dataset, DataWork.Kind.REPORT)
    if failed is not None and failed.created_at >= job.sent_at:
        raise _invalid(failed.error_message, param)
    with _waiting():
        services.start_report(dataset=dataset, **services.report_defaults(made))  # type: ignore[arg-type]
    return None


@contextlib.contextmanager
def _waiting() -> Iterator[None]:
    """Begins something, unless something else is being done with the dataset: its end has this called again."""
    try:
        yield
    except UserError as error:
        if error.code not in _WAITS:
            raise


def _require_usable(job: Job, file: SourceFile, report: DataWork, param: str) -> None:
    """Raises Unusable, which names the first example that cannot be learnt."""
    found: dict[str, Any] = report.result or {}
    errors = counts_of(found, "error").total()
    if not errors or (job.preparing.get("skip_invalid") and found.get("usable")):
        return
    first = first_error(storage.work_folder(report))
    said = spoken(first) if first is not None else f"{file.name} holds nothing to learn from."
    more = f" There are {errors} such problems in all." if errors > 1 else ""
    raise _invalid(said + more, param)


def _invalid(why: str, param: str) -> Unusable:
    """OpenAI's code for it."""
    what = param.replace("_", " ")
    return Unusable(f"invalid_{param}", f"The job failed due to an invalid {what}. {why}".strip(), param)


# --- A version, and the end ----------------------------------------------------------------------------------------
def _frozen(job: Job, training: _Checked, validation: _Checked | None) -> DatasetVersion | None:
    """The version to learn from; None while it is not there. Raises Unusable."""
    recipe = msgspec.convert(job.preparing["recipe"], Recipe)
    if validation is None and recipe == AS_SENT and (training.report.result or {}).get("kind") == "labelled":
        recipe = msgspec.structs.replace(recipe, split=_JUDGED)
    if validation is not None:
        given = validation.report.parameters["sources"]
        recipe = msgspec.structs.replace(recipe, split=Split(validation=0.0, test=0.0, given=given))
    ready = DatasetVersion.objects.filter(
        dataset=training.file.dataset_id, state=DatasetVersion.State.READY
    ).select_related("dataset")
    made = job.freezing
    if made is None and (same := _same(ready, recipe, training.report)) is not None:
        return same
    if made is not None and made.is_unfinished:
        return None
    if made is not None and made.state == DataWork.State.READY:
        version = ready.filter(number=int((made.result or {}).get("version", 0))).first()
        if version is not None:
            return version
    elif made is not None and made.error_code != "report_gone":
        is_cancelled = made.state == DataWork.State.CANCELLED
        code, message = ("cancelled", CANCELLED) if is_cancelled else (made.error_code, made.error_message)
        raise Unusable(code, message, "training_file")
    with _waiting():
        begun = services.start_freeze(
            dataset=training.file.dataset,
            recipe=recipe,
            user=job.created_by,
            validation=validation.report if validation is not None else None,
        )
        Job.objects.filter(id=job.id).update(freezing=begun.work)
    return None


def _same(ready: Any, recipe: Recipe, report: DataWork) -> DatasetVersion | None:
    """What was frozen before by the same recipe of the same file; by steps that look at nothing but that file."""
    if recipe.drop_overlap or recipe.max_tokens:
        return None
    wanted = msgspec.to_builtins(recipe)
    versions = ready.filter(parent=report.parameters["sources"])
    return next((version for version in versions if version.recipe == wanted), None)


def _queue(job: Job, version: DatasetVersion, files: list[_Checked]) -> None:
    """Raises Unusable, and UserError as `check_start`."""
    tasks = tasks_for(version)
    if not tasks:
        raise Unusable("bad_task", NO_TASK, "training_file")
    asked = JobRequest(
        user=job.created_by,
        workspace=job.workspace,
        version=version,
        base=job.base,
        task=job.task or str(tasks[0]),
        name=job.name,
        spec=job.spec,
        metadata=job.metadata,
    )
    # Under the lock a version goes only before, or is found in use afterwards.
    lock_until_commit(f"training.jobs.{job.workspace_id}")
    fields = check_start(asked).fields()
    learnt = {name: fields[name] for name in ("task", "version", "data_label", "data_hash")}
    if not job_life.change(
        job, expected=(State.VALIDATING_FILES,), state=State.QUEUED, sent_at=clock.now(), **learnt
    ):
        return
    for checked in files:
        _warn(job, checked)
    judged = version.validation + version.test
    message = f"Its data is frozen: {version.train} examples to learn from, {judged} to judge by."
    data = {"train": version.train, "validation": version.validation, "test": version.test}
    job_life.add_event(job, "frozen", message, data=data)
    job_life.add_event(job, "created", "It waits for a worker.")
    job_life.send_task()


def _warn(job: Job, checked: _Checked) -> None:
    """Of what a person would have seen in the report."""
    for severity, what in (("error", "Examples of it are left out"), ("warning", "The check warns of it")):
        counts = counts_of(checked.report.result or {}, severity)
        if counts:
            named = ", ".join(f"{count} × {code}" for code, count in counts.most_common())
            message = f"{checked.file.name}: {what}: {named}."
            job_life.add_event(job, "problems", message, level=Level.WARNING, data={"problems": dict(counts)})
