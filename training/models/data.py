"""Customers' data on its way to a frozen dataset: what was uploaded, what is done with it, what came of it.

The bytes lie in files (storage.py); these rows say which of them count.
"""

from __future__ import annotations

import uuid
from typing import NamedTuple

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop

from webapp.accounts.models import Workspace

# Of a file whose look ended without an answer: cancelled, or its worker died.
NOT_LOOKED_AT = gettext_noop("This file could not be looked at.")


class Dataset(models.Model):
    """Files that are checked, cleaned and frozen together. Its workspace's owners and admins see it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace = models.ForeignKey(Workspace, on_delete=models.CASCADE, related_name="datasets")
    name = models.CharField(max_length=120)
    is_for_file = models.BooleanField(default=False)  # made for a file a program sent; goes with its last one
    # Of a version that was frozen, and may be deleted since: what learnt from it names it, so no other has its number.
    highest_version = models.PositiveIntegerField(default=0, db_default=0)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        indexes = [models.Index(fields=["workspace", "-updated_at"], name="dataset_list")]


class Refusal(NamedTuple):
    """Why a file cannot be read. Its sentence is in English."""

    code: str
    reason: str


class SourceFile(models.Model):
    """A file as it was uploaded. Its id is its name on disk; `name` is what a person called it and only a label."""

    class State(models.TextChoices):
        UPLOADING = "uploading", _("uploading")
        DETECTING = "detecting", _("being looked at")
        READY = "ready", _("ready")
        UNREADABLE = "unreadable", _("not readable")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="files")
    name = models.CharField(max_length=255)
    size = models.PositiveBigIntegerField()  # bytes, as announced
    received = models.PositiveBigIntegerField(default=0)  # of them, on disk
    # As the browser gave it, in milliseconds: with name and size it tells the file that is being continued.
    modified = models.BigIntegerField(default=0)
    sha256 = models.CharField(max_length=64, blank=True)
    state = models.CharField(max_length=12, choices=State.choices, default=State.UPLOADING)
    detected = models.JSONField(null=True)  # datasets.sources.Detected
    reading = models.JSONField(
        null=True
    )  # datasets.sources.Reading: as detected, or as a person corrected it
    is_corrected = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)
    received_at = models.DateTimeField()  # when bytes last came

    class Meta:
        ordering = ["created_at", "id"]

    @property
    def refusal(self) -> Refusal:
        """Of one that is unreadable."""
        found = self.detected or {}
        return Refusal(found.get("code") or "unreadable_file", found.get("reason") or NOT_LOOKED_AT)


class DataWork(models.Model):
    """Something a worker does with a dataset. The row is the truth: its state changes only by compare-and-set."""

    class Kind(models.TextChoices):
        DETECT = "detect", _("Looking at the file")
        REPORT = "report", _("Checking the data")
        PREVIEW = "preview", _("Counting effects")
        FREEZE = "freeze", _("Freezing")

    class State(models.TextChoices):
        QUEUED = "queued", _("queued")
        RUNNING = "running", _("running")
        READY = "ready", _("ready")
        FAILED = "failed", _("failed")
        CANCELLED = "cancelled", _("cancelled")

    UNFINISHED = (State.QUEUED, State.RUNNING)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="work")
    file = models.ForeignKey(SourceFile, on_delete=models.CASCADE, null=True, related_name="work")  # detect
    kind = models.CharField(max_length=8, choices=Kind.choices)
    parameters = models.JSONField(default=dict)
    result = models.JSONField(null=True)  # a Report, or a list of Effects

    state = models.CharField(max_length=10, choices=State.choices, default=State.QUEUED)
    attempt = models.PositiveIntegerField(default=0)  # fencing number: grows with every claim
    crashes = models.PositiveIntegerField(default=0)  # claims whose worker fell silent
    cancel_requested = models.BooleanField(default=False)
    stage = models.CharField(max_length=20, blank=True)  # "reading", "profiling", ...
    done = models.PositiveBigIntegerField(default=0)
    total = models.PositiveBigIntegerField(default=0)
    error_code = models.CharField(max_length=60, blank=True)
    error_message = models.TextField(blank=True)

    created_at = models.DateTimeField(auto_now_add=True)
    sent_at = (
        models.DateTimeField()
    )  # when its task was last sent; the reaper sends it again if nobody claims it
    heartbeat_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["created_at", "id"]
        constraints = [
            # What reads a report's records and what makes them anew would pull the ground from under each other.
            models.UniqueConstraint(
                fields=["dataset"],
                condition=models.Q(state__in=("queued", "running")) & ~models.Q(kind="detect"),
                name="one_data_work_at_a_time",
            )
        ]
        indexes = [
            models.Index(
                fields=["state"],
                condition=models.Q(state__in=("queued", "running")),
                name="data_work_unfinished",
            )
        ]

    @property
    def is_unfinished(self) -> bool:
        return self.state in self.UNFINISHED

    @property
    def percent(self) -> int | None:
        """Of the stage; None where nobody can say."""
        return min(100, self.done * 100 // self.total) if self.total else None


class DatasetVersion(models.Model):
    """A frozen dataset: what a job trains on. Once ready it never changes."""

    class State(models.TextChoices):
        BUILDING = "building", _("building")
        READY = "ready", _("ready")
        FAILED = "failed", _("failed")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()  # from 1 within the dataset
    work = models.OneToOneField(DataWork, on_delete=models.SET_NULL, null=True, related_name="version")
    state = models.CharField(max_length=10, choices=State.choices, default=State.BUILDING)
    recipe = models.JSONField()  # datasets.recipe.Recipe
    parent = models.CharField(max_length=64)  # SHA-256 over the sources it was made from
    # Of a ready version, from its manifest:
    kind = models.CharField(max_length=12, blank=True)  # datasets.examples.Kind
    content_hash = models.CharField(max_length=64, blank=True)
    train = models.PositiveBigIntegerField(default=0)  # examples
    validation = models.PositiveBigIntegerField(default=0)
    test = models.PositiveBigIntegerField(default=0)
    manifest = models.JSONField(null=True)  # datasets.frozen.Manifest
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["dataset", "number"], name="version_number_once"),
            models.UniqueConstraint(
                fields=["dataset", "content_hash"],
                condition=~models.Q(content_hash=""),
                name="version_content_once",
            ),
        ]
