"""From rows of jobs to what programs read of them. Knows nothing of requests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import cast

from training.job_log import Entry
from training.models import Checkpoint, Job, Measurement
from training.trainer.spec import Spec
from webapp.api.fine_tuning_schemas import (
    CheckpointMetrics,
    FineTuningJob,
    JobCheckpoint,
    JobError,
    JobEvent,
    JobHyperparameters,
    JobMethod,
    JobProgress,
    JobSupervised,
    Level,
    Status,
)
from webapp.api.ids import public_id

_USUAL = Spec(dataset="", output="")
_EVENT = re.compile(r"ftevent-([0-9a-f]{32})-([0-9]{1,18})")


def as_job(job: Job) -> FineTuningJob:
    hyperparameters = _hyperparameters(job)
    return FineTuningJob(
        id=public_id("ftjob", job.id),
        created_at=_seconds(job.created_at),
        error=_error(job),
        estimated_finish=_estimated_finish(job),
        fine_tuned_model=job.model.name if job.model is not None else None,
        finished_at=_seconds(job.finished_at) if job.finished_at is not None else None,
        hyperparameters=hyperparameters,
        metadata=job.metadata or None,
        method=JobMethod(supervised=JobSupervised(hyperparameters=hyperparameters)),
        model=job.base.name if job.base is not None else "scratch",
        organization_id=f"workspace-{job.workspace_id}",
        result_files=_result_files(job),
        seed=job.spec.get("seed", _USUAL.seed),
        status=cast(Status, job.state),
        trained_tokens=_trained_tokens(job),
        training_file=_training_file(job),
        user_provided_suffix=job.name,
        validation_file=public_id("file", job.validation_file) if job.validation_file else None,
        flywheel=JobProgress(
            task=job.task or None,
            data=job.data_label,
            version=public_id("version", job.version_id) if job.version_id else None,
            knobs=job.spec,
            chosen=job.chosen,
            step=job.step,
            total_steps=job.steps or None,
            epoch=job.epoch,
            seconds=job.seconds,
            base_valid_loss=job.base_validation_loss,
            best_valid_loss=job.best_validation_loss,
            best_step=job.best_step or None,
            evaluation=job.evaluation,
        ),
    )


def _seconds(at: datetime) -> int:
    return int(at.timestamp())


def _error(job: Job) -> JobError | None:
    if job.state != Job.State.FAILED:
        return None
    return JobError(code=job.error_code, message=job.error_message, param=job.error_param or None)


def _estimated_finish(job: Job) -> int | None:
    if job.state != Job.State.RUNNING or not job.eta or job.heartbeat_at is None:
        return None
    return _seconds(job.heartbeat_at + timedelta(seconds=job.eta))


def _result_files(job: Job) -> list[str]:
    result = getattr(job, "result_file", None)
    return [public_id("file", result.id)] if result is not None else []


def _training_file(job: Job) -> str:
    if job.training_file is not None:
        return public_id("file", job.training_file)
    return public_id("version", job.version_id) if job.version_id else "deleted"


def _trained_tokens(job: Job) -> int | None:
    return job.trained_tokens if job.state == Job.State.SUCCEEDED else None


def _hyperparameters(job: Job) -> JobHyperparameters:
    """As they were asked for, and what "auto" has come to."""
    chosen = {choice["knob"]: choice["value"] for choice in job.chosen}
    epochs = job.spec.get("epochs", _USUAL.epochs)
    batch_size = job.spec.get("batch_size", "auto")
    if batch_size == "auto" and "batch_size" in chosen:
        batch_size = int(chosen["batch_size"])
    multiplier = job.spec.get("learning_rate_multiplier", "auto")
    if multiplier == "auto" and ("learning_rate" in chosen or "learning_rate" in job.spec):
        multiplier = 1.0
    return JobHyperparameters(
        n_epochs=int(epochs) if epochs == int(epochs) else epochs,
        batch_size=batch_size,
        learning_rate_multiplier=multiplier,
    )


# --- Events --------------------------------------------------------------------------------------------------------
def as_event(job: Job, entry: Entry) -> JobEvent:
    return JobEvent(
        id=f"ftevent-{job.id.hex}-{entry.number}",
        created_at=_seconds(entry.created_at),
        level=cast(Level, entry.level),
        message=entry.message,
        type=entry.kind,
        data=entry.data,
    )


def event_number(job: Job, text: str) -> int | None:
    """None for what is no event of this job."""
    found = _EVENT.fullmatch(text)
    return int(found[2]) if found and found[1] == job.id.hex else None


# --- Checkpoints ---------------------------------------------------------------------------------------------------
def checkpoint_id(checkpoint: Checkpoint) -> str:
    return f"ftckpt-{checkpoint.job_id.hex}-{checkpoint.step}"


def as_checkpoints(job: Job, checkpoints: Sequence[Checkpoint]) -> list[JobCheckpoint]:
    steps = [checkpoint.step for checkpoint in checkpoints]
    measured = Measurement.objects.filter(job=job, kind=Measurement.Kind.TRAIN, step__in=steps)
    train = dict(measured.values_list("step", "loss"))
    return [_as_checkpoint(job, checkpoint, train.get(checkpoint.step)) for checkpoint in checkpoints]


def _as_checkpoint(job: Job, checkpoint: Checkpoint, train_loss: float | None) -> JobCheckpoint:
    model = checkpoint.model
    if checkpoint.step == job.best_step and job.model is not None:
        model = job.model  # what came of the job is its best checkpoint
    is_there = model is not None and model.removed_at is None
    return JobCheckpoint(
        id=checkpoint_id(checkpoint),
        created_at=_seconds(checkpoint.created_at),
        fine_tuned_model_checkpoint=model.name if model is not None and is_there else None,
        fine_tuning_job_id=public_id("ftjob", job.id),
        metrics=CheckpointMetrics(
            step=checkpoint.step,
            train_loss=train_loss,
            valid_loss=checkpoint.validation_loss,
            full_valid_loss=checkpoint.validation_loss,
        ),
        step_number=checkpoint.step,
    )
