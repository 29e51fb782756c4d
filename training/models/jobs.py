"""Training jobs: what was asked for, how far it is, and what came of it, as pages and the API read it.

The trainer knows no database. It writes files ($FLYWHEEL_HOME/jobs/ID), and the worker that supervises it takes what is
new in them into these rows, under the attempt it claimed the job with.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from inference.models import ServedModel
from training.models.data import DatasetVersion, DataWork
from training.trainer.spec import EFFORT
from webapp.accounts.models import Workspace
from webapp.core.request_ids import MAX_LENGTH

# A cancelled trial's `error_code`, where it was the search that cancelled it.
PRUNED = "pruned"


class Search(models.Model):
    """Several jobs that look for the best knobs: each trial is a Job. Also the folds of a cross-validation."""

    class Kind(models.TextChoices):
        SEARCH = "search", _("search")
        FOLDS = "folds", _("cross-validation")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace = models.ForeignKey(Workspace, on_delete=models.CASCADE, related_name="searches")
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    name = models.CharField(max_length=120)
    kind = models.CharField(max_length=8, choices=Kind.choices)
    # version and base (ids), data_label, base_name, task, spec; of a search also space (`training.search_space`) and
    # trials, of a cross-validation folds.
    parameters = models.JSONField()
    # Of a search {"best", "loss", "importance", "error"}; of folds what `summarise_folds` says, and "failed": numbers.
    result = models.JSONField(null=True)
    cancel_requested = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True)

    def best(self, jobs: Iterable[Job]) -> Job | None:
        """Of its trials the one with the lowest validation loss, of equal ones the first. No fold is the best.

        Where it varies how steps are computed (`EFFORT`), the fastest of those that learnt the same as that one: their
        losses are equal but for rounding. Trials count in the order in which they ended, so that none is the best that
        was not when it ended: the weights of all others are gone.
        """
        if self.kind == self.Kind.FOLDS:
            return None
        best, lowest = None, math.inf
        succeeded = [job for job in jobs if job.state == Job.State.SUCCEEDED]
        for job in sorted(succeeded, key=lambda job: (job.finished_at, job.number)):
            loss = math.inf if job.best_validation_loss is None else job.best_validation_loss
            if best is not None and self._differ_in_effort(best, job):
                best, lowest = min(best, job, key=lambda job: job.seconds), min(lowest, loss)
            elif loss < lowest:
                best, lowest = job, loss
        return best

    def _differ_in_effort(self, one: Job, other: Job) -> bool:
        """Whether these trials differ in how steps are computed alone, where that is searched for."""
        effort = {*EFFORT} & {*self.parameters["space"]}
        first, second = (
            {name: value for name, value in job.spec.items() if name not in effort} for job in (one, other)
        )
        return bool(effort) and first == second


class Job(models.Model):
    """One run of the trainer. The row is the truth: its state changes only by compare-and-set on state and attempt."""

    class State(models.TextChoices):
        VALIDATING_FILES = "validating_files", _("checking the data")
        QUEUED = "queued", _("queued")
        RUNNING = "running", _("training")
        PAUSED = "paused", _("paused")
        SUCCEEDED = "succeeded", _("succeeded")
        FAILED = "failed", _("failed")
        CANCELLED = "cancelled", _("cancelled")

    class Task(models.TextChoices):
        """What is learnt. A version's kind allows some of them (`training.knobs`)."""

        CHAT = "chat", _("Conversations")
        DOCUMENTS = "documents", _("Documents")
        TRANSLATION = "translation", _("Translation")
        CLASSIFICATION = "classification", _("Classification")
        REGRESSION = "regression", _("Numbers")
        SCRATCH = "scratch", _("A new model from scratch")

    class Wish(models.TextChoices):
        """What a person wants of a job that runs; its worker hears of it with its next heartbeat."""

        NONE = "", ""
        PAUSE = "pause", _("pausing")
        CANCEL = "cancel", _("cancelling")

    TERMINAL = (State.SUCCEEDED, State.FAILED, State.CANCELLED)
    WAITING = (State.VALIDATING_FILES, State.QUEUED)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace = models.ForeignKey(Workspace, on_delete=models.CASCADE, related_name="jobs")
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    name = models.CharField(max_length=64)  # also the suffix of the model that comes of it
    task = models.CharField(max_length=14, choices=Task.choices)  # "" while nobody knows what its files hold
    version = models.ForeignKey(DatasetVersion, on_delete=models.SET_NULL, null=True, related_name="jobs")
    data_label = models.CharField(max_length=160)  # "Support, version 3": kept where the version is deleted
    data_hash = models.CharField(max_length=64)
    # Of a job that was begun with files: their ids, which it keeps when they are deleted; how they are to be frozen,
    # {"recipe", "skip_invalid"} (`training.job_files`); and the freezing that it waits for.
    training_file = models.UUIDField(null=True, db_index=True)
    validation_file = models.UUIDField(null=True, db_index=True)
    preparing = models.JSONField(default=dict)
    freezing = models.ForeignKey(DataWork, on_delete=models.SET_NULL, null=True, related_name="+")
    base = models.ForeignKey(
        ServedModel, on_delete=models.PROTECT, null=True, related_name="+"
    )  # scratch: none
    spec = models.JSONField()  # the knobs of training.trainer.spec.Spec that were given
    # What asked for it, as logs name it.
    request_id = models.CharField(max_length=MAX_LENGTH, blank=True, default="", db_default="")
    metadata = models.JSONField(default=dict)  # whatever a program notes of it: names and texts
    search = models.ForeignKey(Search, on_delete=models.CASCADE, null=True, related_name="jobs")
    number = models.PositiveIntegerField(default=0)  # of the trial or the fold, from 1

    state = models.CharField(max_length=16, choices=State.choices, default=State.QUEUED)
    wish = models.CharField(max_length=6, choices=Wish.choices, default=Wish.NONE, blank=True)
    attempt = models.PositiveIntegerField(default=0)  # fencing number: grows with every claim
    crashes = models.PositiveIntegerField(
        default=0
    )  # claims whose worker or trainer died, since it last got on
    stage = models.CharField(max_length=20, blank=True)  # "loading", "reading", "training", as in status.json
    step = models.PositiveBigIntegerField(default=0)
    steps = models.PositiveBigIntegerField(default=0)  # 0: not known yet
    epoch = models.FloatField(default=0)
    eta = models.FloatField(null=True)  # seconds that are left
    rate = models.FloatField(null=True)  # trained tokens (or examples) a second
    memory = models.PositiveBigIntegerField(default=0)  # bytes, the most there were
    seconds = models.FloatField(default=0)  # spent in steps so far, each counted once
    metrics_read = models.PositiveBigIntegerField(default=0)  # bytes of metrics.jsonl that are in these rows
    chosen = models.JSONField(default=list)  # [{knob, value, why}]: what "auto" came to
    data = models.JSONField(default=dict)  # examples, tokens, trained_tokens, ... as the trainer counted them
    trained_tokens = models.PositiveBigIntegerField(null=True)  # over all steps, once it succeeded
    last_event = models.PositiveBigIntegerField(default=0)  # the highest number in its log, `JobEvent.number`
    base_validation_loss = models.FloatField(null=True)
    best_validation_loss = models.FloatField(null=True)
    best_step = models.PositiveBigIntegerField(default=0)
    evaluation = models.JSONField(null=True)  # of a classifier: training.trainer's evaluation.json
    model = models.OneToOneField(
        ServedModel, on_delete=models.SET_NULL, null=True, related_name="job"
    )  # what came of it, once it succeeded
    error_code = models.CharField(max_length=60, blank=True)
    error_message = models.TextField(blank=True)
    error_param = models.CharField(max_length=40, blank=True)  # "training_file", where it was that file

    created_at = models.DateTimeField(auto_now_add=True)
    sent_at = (
        models.DateTimeField()
    )  # when its task was last sent; the reaper sends it again if nobody claims it
    started_at = models.DateTimeField(null=True)
    heartbeat_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [
            models.Index(fields=["workspace", "-created_at"], name="job_list"),
            models.Index(
                fields=["state"],
                condition=models.Q(state__in=("validating_files", "queued", "running")),
                name="job_unfinished",
            ),
        ]

    @property
    def is_finished(self) -> bool:
        return self.state in self.TERMINAL

    @property
    def is_pruned(self) -> bool:
        """A trial that was stopped early, since others were better by then."""
        return self.state == self.State.CANCELLED and self.error_code == PRUNED

    @property
    def percent(self) -> int | None:
        """Of the steps; None where nobody can say yet."""
        return min(100, self.step * 100 // self.steps) if self.steps else None


class JobEvent(models.Model):
    """What happened to a job, as a sentence; never changed. Measurements are numbered with these, so that a job has one
    log in one order."""

    class Level(models.TextChoices):
        INFO = "info"
        WARNING = "warn"
        ERROR = "error"

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="events")
    number = models.PositiveBigIntegerField()  # from 1 within the job, and growing
    level = models.CharField(max_length=5, choices=Level.choices, default=Level.INFO)
    code = models.CharField(max_length=40)  # "created", "started", "checkpoint", "paused", ...
    message = models.TextField()  # in English; pages translate what they know
    data = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["number"]
        constraints = [models.UniqueConstraint(fields=["job", "number"], name="job_event_number_once")]


class Measurement(models.Model):
    """One step's loss, or one evaluation's. A step computed again after a crash replaces what it said before."""

    class Kind(models.TextChoices):
        TRAIN = "train"
        VALIDATION = "validation"

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="measurements")
    kind = models.CharField(max_length=10, choices=Kind.choices)
    step = models.PositiveBigIntegerField()
    loss = models.FloatField()
    values = models.JSONField(
        default=dict
    )  # the rest of the trainer's line: learning_rate, gradient_norm, ...
    # As a JobEvent's; none of those that are older than the numbering.
    number = models.PositiveBigIntegerField(null=True)
    created_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["step"]
        constraints = [models.UniqueConstraint(fields=["job", "kind", "step"], name="measurement_once")]
        indexes = [models.Index(fields=["job", "-number"], name="measurement_log")]


class Checkpoint(models.Model):
    """What was saved at a step. `is_kept`: whether its files are still there. `model`: what answers as it did, where it
    is not the job's own, which is the best step's."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="checkpoints")
    step = models.PositiveBigIntegerField()
    validation_loss = models.FloatField(null=True)
    is_kept = models.BooleanField(default=True)
    model = models.OneToOneField(ServedModel, on_delete=models.SET_NULL, null=True, related_name="checkpoint")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["step"]
        constraints = [models.UniqueConstraint(fields=["job", "step"], name="checkpoint_once")]


class Sample(models.Model):
    """What the model answered to a fixed prompt at a checkpoint; at step 0 it is the base model that answers."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="samples")
    step = models.PositiveBigIntegerField()
    number = models.PositiveIntegerField()  # of the prompt, from 0
    prompt = models.TextField()
    answer = models.TextField()

    class Meta:
        ordering = ["step", "number"]
        constraints = [models.UniqueConstraint(fields=["job", "step", "number"], name="sample_once")]


class ResultFile(models.Model):
    """The losses of a finished job as CSV, for programs to fetch. The file lies in the job's folder."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    job = models.OneToOneField(Job, on_delete=models.CASCADE, related_name="result_file")
    size = models.PositiveBigIntegerField()  # bytes
    created_at = models.DateTimeField(auto_now_add=True)
