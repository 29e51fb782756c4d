"""Which files the rows of a database name, as paths in $FLYWHEEL_HOME. Ask inside the snapshot's transaction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from inference.models import ServedModel
from training import storage
from training.models import DatasetVersion, DataWork, Job, SourceFile

# What holds such files, whole.
BASE_MODELS = "models"
FOLDERS = ("datasets", "jobs", "adapters", "trained", BASE_MODELS)


@dataclass(frozen=True)
class Named:
    """A file, or a folder with all that is in it. Of some rows only what exists: a job that waits has no folder yet."""

    path: Path  # relative to $FLYWHEEL_HOME, or absolute where it lies elsewhere
    is_needed: bool = True


def named_files(*, base_models: bool) -> list[Named]:
    return [*_data(), *_jobs(), *_models(base_models)]


def _relative(path: Path) -> Path:
    home = settings.FLYWHEEL_HOME
    return path.relative_to(home) if path.is_relative_to(home) else path


def _data() -> Iterator[Named]:
    # A file that is still arriving is sent again by whoever sends it.
    whole = SourceFile.objects.exclude(state=SourceFile.State.UPLOADING).only("id", "dataset_id")
    for file in whole.iterator():
        yield Named(_relative(storage.source_path(file)))
    for version in DatasetVersion.objects.filter(state=DatasetVersion.State.READY).only("id", "dataset_id"):
        yield Named(_relative(storage.version_folder(version)))
    done = DataWork.objects.filter(state=DataWork.State.READY).only("id", "dataset_id", "attempt")
    for work in done.iterator():
        yield Named(_relative(storage.work_folder(work)), is_needed=False)


def _jobs() -> Iterator[Named]:
    for job in Job.objects.only("id").iterator():
        yield Named(_relative(storage.job_folder(job)), is_needed=False)


def _models(base_models: bool) -> Iterator[Named]:
    for model in ServedModel.objects.filter(removed_at=None).only("path", "workspace_id", "manifest"):
        # What is in the shared storage is kept with that: its files never change, and rows name them by digest.
        if not model.is_stored and (model.workspace_id is not None or base_models):
            yield Named(_relative(model.location))


def models_in_shared_storage() -> int:
    """How many are not among the named files because they lie there."""
    models = ServedModel.objects.filter(removed_at=None).only("manifest")
    return sum(model.is_stored for model in models)
