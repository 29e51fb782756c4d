"""From a program's request to a job: the model and the files it names, its hyperparameters as the trainer's knobs.

Knows nothing of what a job does.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from django.http import HttpRequest
from django.utils.translation import gettext as _

from inference.access import models_for
from inference.models import ServedModel
from training import access, job_services
from training.job_files import AS_SENT, FilesRequest, start_job_of_files
from training.job_request import JobRequest
from training.knobs import tasks_for
from training.models import DatasetVersion, Job, SourceFile
from training.recipes import recipe_of
from webapp.api.callers import Caller
from webapp.api.errors import ModelNotFound, Unsupported
from webapp.api.fine_tuning_schemas import CreateJob, FlywheelSettings, Hyperparameters, Method
from webapp.api.ids import key_of
from webapp.core.errors import NotFound, UserError

SCRATCH = "scratch"  # as a model's name: a new one
# What is wrong with which parameter, where the services cannot know how it is called here.
_PARAMS = {
    "bad_name": "suffix",
    "bad_knobs": "flywheel",
    "bad_base": "model",
    "base_missing": "model",
    "bad_task": "flywheel.task",
    "version_not_ready": "training_file",
    "nothing_to_learn": "training_file",
}
_HYPERPARAMETERS = {
    "n_epochs": "epochs",
    "batch_size": "batch_size",
    "learning_rate_multiplier": "learning_rate_multiplier",
}


def start(who: Caller, body: CreateJob, request: HttpRequest) -> Job:
    """Raises UserError, with the parameter that is wrong."""
    if body.integrations:
        raise Unsupported("integrations")
    settings = body.flywheel or FlywheelSettings.model_validate({})
    base, task = _base_and_task(who, body.model, settings.task or "")
    spec = _spec(body, settings)
    metadata = body.metadata or {}
    with _naming_parameters():
        if body.training_file.startswith("version-"):
            version = _version(who, body, settings)
            asked = JobRequest(
                user=who.user,
                workspace=who.workspace,
                version=version,
                base=base,
                task=task or str(next(iter(tasks_for(version)), "")),
                name=body.suffix or version.dataset.name[:64],
                spec=spec,
                metadata=metadata,
            )
            return job_services.start_job(asked=asked, request=request)
        training = _file(who, body.training_file, "training_file")
        validation = _file(who, body.validation_file, "validation_file") if body.validation_file else None
        files = FilesRequest(
            user=who.user,
            workspace=who.workspace,
            training=training,
            validation=validation,
            base=base,
            task=task,
            name=body.suffix or PurePath(training.name).stem[:64] or training.name[:64],
            spec=spec,
            metadata=metadata,
            recipe=AS_SENT if settings.recipe is None else recipe_of(settings.recipe, "flywheel.recipe"),
            skip_invalid=settings.invalid_examples == "skip",
        )
        return start_job_of_files(asked=files, request=request)


@contextlib.contextmanager
def _naming_parameters() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        error.param = error.param or _PARAMS.get(error.code)
        raise


def _base_and_task(who: Caller, name: str, task: str) -> tuple[ServedModel | None, str]:
    """Raises ModelNotFound, and UserError `bad_base` for what no fine-tune begins with."""
    if name == SCRATCH:
        return None, Job.Task.SCRATCH
    found = models_for(who.workspace).filter(name=name).first()
    if found is None:
        raise ModelNotFound(name)
    if found.base_id is not None or found.workspace_id is not None:
        raise UserError(
            "bad_base",
            _("Begin with one of the installed models, not with a fine-tuned one such as “%(name)s”.")
            % {"name": found.name},
            param="model",
        )
    return found, task


def _file(who: Caller, text: str, param: str) -> SourceFile:
    """Raises UserError `file_not_found`."""
    try:
        return access.get_file(who.user, key_of("file", text), within=who.workspace)
    except NotFound as error:
        message = _("The file “%(id)s” does not exist, or is not yours to use. GET /v1/files lists yours.")
        raise UserError("file_not_found", message % {"id": text}, status=404, param=param) from error


def _version(who: Caller, body: CreateJob, settings: FlywheelSettings) -> DatasetVersion:
    """Raises UserError `file_not_found`, `unsupported_parameter`."""
    if body.validation_file:
        raise Unsupported("validation_file", _("A frozen version has a validation split of its own."))
    if settings.recipe is not None:
        raise Unsupported("flywheel.recipe", _("A frozen version was made by its own recipe."))
    try:
        return access.get_version(who.user, key_of("version", body.training_file), within=who.workspace)
    except NotFound as error:
        raise UserError("file_not_found", error.message, status=404, param="training_file") from error


# --- Knobs -------------------------------------------------------------------------------------------------------
def _spec(body: CreateJob, settings: FlywheelSettings) -> dict[str, Any]:
    """The trainer's knobs; `training.knobs` says which of them cannot be so."""
    spec: dict[str, Any] = dict(settings.model_extra or {})
    for name, value in _hyperparameters(body).items():
        knob = _HYPERPARAMETERS[name]
        if knob in spec:
            raise UserError(
                "invalid_value",
                _("“%(one)s” and “%(other)s” say the same: leave one of them out.")
                % {"one": name, "other": f"flywheel.{knob}"},
                param=f"flywheel.{knob}",
            )
        if value != "auto":
            spec[knob] = value
    if body.seed is not None and "seed" in spec:
        raise UserError(
            "invalid_value",
            _("“%(one)s” and “%(other)s” say the same: leave one of them out.")
            % {"one": "seed", "other": "flywheel.seed"},
            param="flywheel.seed",
        )
    # As OpenAI does: one of its own where none is asked for, which the job tells.
    return {"seed": secrets.randbelow(2**31) if body.seed is None else body.seed} | spec


def _hyperparameters(body: CreateJob) -> dict[str, Any]:
    """Those that are given, in the old place or the new one."""
    asked = _of_method(body.method)
    if asked is None:
        asked = body.hyperparameters
    elif body.hyperparameters is not None:
        raise UserError(
            "invalid_value",
            _("“%(one)s” and “%(other)s” say the same: leave one of them out.")
            % {"one": "hyperparameters", "other": "method.supervised.hyperparameters"},
            param="hyperparameters",
        )
    return asked.dict(exclude_none=True) if asked is not None else {}


def _of_method(method: Method | None) -> Hyperparameters | None:
    """Raises Unsupported for what is not learnt by example."""
    if method is None:
        return None
    for name in ("dpo", "reinforcement"):
        if method.type == name or getattr(method, name) is not None:
            message = _("The method “%(name)s” is not supported here: the only one is “supervised”.")
            param = f"method.{name}" if getattr(method, name) is not None else "method.type"
            raise Unsupported(param, message % {"name": name})
    return method.supervised.hyperparameters if method.supervised is not None else None
