"""What fine-tuning jobs look like to programs: OpenAI's shapes, and under `flywheel` what only Flywheel has."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from ninja import Schema
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from training.trainer.spec import RANGES

Auto = Literal["auto"]
MAX_METADATA = 16


def _between(name: str) -> Any:
    low, high = RANGES[name]
    return Field(ge=low, le=high, strict=True)


# --- What is asked ---------------------------------------------------------------------------------------------
class Hyperparameters(Schema):
    model_config = ConfigDict(extra="forbid")

    n_epochs: Auto | Annotated[float, _between("epochs")] | None = None
    batch_size: Auto | Annotated[int, _between("batch_size")] | None = None
    learning_rate_multiplier: Auto | Annotated[float, _between("learning_rate_multiplier")] | None = None


class Supervised(Schema):
    model_config = ConfigDict(extra="forbid")

    hyperparameters: Hyperparameters | None = None


class Method(Schema):
    """`dpo` and `reinforcement` are not supported."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: Any = None
    reinforcement: Any = None


class FlywheelSettings(BaseModel):  # ninja's Schema forgets what is not a field
    """Beyond OpenAI's: any knob of the trainer (`epochs`, `max_steps`, `learning_rate`, `lora`, ...; docs/training.md),
    and these."""

    model_config = ConfigDict(extra="allow")

    task: Literal["chat", "documents", "translation", "classification", "regression"] | None = Field(
        None,
        description="What is learnt; null: what the data is for. The model “scratch” is a task of its own.",
    )
    recipe: dict[str, Any] | None = Field(
        None,
        description="How the files are cleaned and split, as for a dataset's version; null: texts stay as they are, a "
        "tenth is held back for validation, and of labels and numbers another tenth for the test.",
    )
    invalid_examples: Literal["fail", "skip"] = Field(
        "fail", description="Whether an example with an error fails the job, or is left out."
    )


Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=64)],
        Annotated[str, StringConstraints(max_length=512)],
    ],
    Field(max_length=MAX_METADATA),
]


class CreateJob(Schema):
    model_config = ConfigDict(extra="forbid")

    model: str = Field(max_length=200, description="One of the site's models, or “scratch” for none.")
    training_file: str = Field(
        max_length=80, description="An uploaded file, or a dataset's frozen version (“version-...”)."
    )
    validation_file: str | None = Field(
        None, max_length=80, description="Without one, a tenth of the training file is held back."
    )
    suffix: str | None = Field(None, min_length=1, max_length=64)
    seed: Annotated[int, Field(ge=0, le=2**31 - 1, strict=True)] | None = None
    hyperparameters: Hyperparameters | None = None
    method: Method | None = None
    integrations: list[Any] | None = Field(None, description="Not supported: leave it out, or empty.")
    metadata: Metadata | None = None
    flywheel: FlywheelSettings | None = None


# --- What is answered ------------------------------------------------------------------------------------------
Status = Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
Level = Literal["info", "warn", "error"]


class JobError(Schema):
    code: str
    message: str
    param: str | None


class JobHyperparameters(Schema):
    n_epochs: Auto | int | float
    batch_size: Auto | int
    learning_rate_multiplier: Auto | float


class JobSupervised(Schema):
    hyperparameters: JobHyperparameters


class JobMethod(Schema):
    type: Literal["supervised"] = "supervised"
    supervised: JobSupervised


class JobProgress(Schema):
    """What only Flywheel has."""

    task: str | None  # null while nobody knows yet what the file is for
    data: str  # what is learnt from, as people call it
    version: str | None  # of the dataset, once it is frozen
    knobs: dict[str, Any]  # as they were asked for
    chosen: list[dict[str, Any]]  # what "auto" came to, and why
    step: int
    total_steps: int | None
    epoch: float
    seconds: float  # spent in steps
    base_valid_loss: float | None  # of the base model
    best_valid_loss: float | None
    best_step: int | None
    evaluation: dict[str, Any] | None  # of a classifier or regressor


class FineTuningJob(Schema):
    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    error: JobError | None
    estimated_finish: int | None
    fine_tuned_model: str | None
    finished_at: int | None
    hyperparameters: JobHyperparameters
    integrations: list[Any] = []
    metadata: dict[str, str] | None
    method: JobMethod
    model: str
    organization_id: str
    result_files: list[str]
    seed: int
    status: Status
    trained_tokens: int | None
    training_file: str
    user_provided_suffix: str | None
    validation_file: str | None
    flywheel: JobProgress


class FineTuningJobs(Schema):
    object: Literal["list"] = "list"
    data: list[FineTuningJob]
    has_more: bool


class JobEvent(Schema):
    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Level
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any]


class JobEvents(Schema):
    object: Literal["list"] = "list"
    data: list[JobEvent]
    has_more: bool


class CheckpointMetrics(Schema):
    """Accuracies are not measured."""

    step: int
    train_loss: float | None
    train_mean_token_accuracy: None = None
    valid_loss: float | None
    valid_mean_token_accuracy: None = None
    full_valid_loss: float | None
    full_valid_mean_token_accuracy: None = None


class JobCheckpoint(Schema):
    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: (
        str | None
    )  # null where nobody can ask it: too old, of all weights, or not ended yet
    fine_tuning_job_id: str
    metrics: CheckpointMetrics
    step_number: int


class JobCheckpoints(Schema):
    object: Literal["list"] = "list"
    data: list[JobCheckpoint]
    first_id: str | None
    last_id: str | None
    has_more: bool
