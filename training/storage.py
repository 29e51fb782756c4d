"""Where files of datasets and jobs lie, and how they go. No name below datasets/ and jobs/ is a person's.

Knows nothing of what the files hold.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path
from typing import Protocol
from uuid import UUID

from django.conf import settings

from webapp.core import durable

logger = logging.getLogger(__name__)
# With less than this left (bytes), whatever works on data or trains ends: the database and the broker stop without any.
_LEAST_FREE = 2**28


class HasId(Protocol):
    id: UUID


class OfDataset(HasId, Protocol):
    dataset_id: UUID


class Claimed(OfDataset, Protocol):
    attempt: int


def datasets_folder() -> Path:
    return Path(settings.FLYWHEEL_HOME) / "datasets"


def dataset_folder(dataset_id: UUID) -> Path:
    return datasets_folder() / str(dataset_id)


def incoming_folder() -> Path:
    """Files that are not whole yet, beside where they will lie: to move one there is a rename."""
    return datasets_folder() / "incoming"


def source_path(file: OfDataset) -> Path:
    return dataset_folder(file.dataset_id) / "sources" / str(file.id)


def work_folder(work: Claimed) -> Path:
    """An attempt's own: one that was thought dead and goes on writing disturbs nobody."""
    return dataset_folder(work.dataset_id) / "work" / f"{work.id}.{work.attempt}"


def version_folder(version: OfDataset) -> Path:
    return dataset_folder(version.dataset_id) / "versions" / str(version.id)


def jobs_folder() -> Path:
    return Path(settings.FLYWHEEL_HOME) / "jobs"


def job_folder(job: HasId) -> Path:
    """spec.json, what the trainer says and saves, and its log: all attempts share it, one after the other."""
    return jobs_folder() / str(job.id)


def result_path(job_id: UUID) -> Path:
    """What a program fetches of a finished job."""
    return jobs_folder() / str(job_id) / "results.csv"


def free_bytes() -> int:
    folder = datasets_folder()
    durable.make_folders(folder)
    return shutil.disk_usage(folder).free


def is_short() -> bool:
    try:
        return shutil.disk_usage(settings.FLYWHEEL_HOME).free < _LEAST_FREE
    except OSError:  # whoever writes will hear of it
        return False


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_file(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.error("%s could not be removed: %s", path, error)


def remove_folder(path: Path) -> None:
    """Removes what is there; a link in it is removed, and not what it leads to."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.error("%s could not be removed: %s", path, error)


def remove_half_saved(job: HasId) -> None:
    """What is left of a checkpoint whose trainer was killed as it wrote it; where it goes on, it does so itself."""
    checkpoints = job_folder(job) / "checkpoints"
    for half in () if checkpoints.is_symlink() else checkpoints.glob(".aside-step-*"):
        remove_folder(half)


def remove_other_work(work: Claimed) -> None:
    """Leaves of a dataset's work folder only what this attempt made."""
    mine = work_folder(work)
    for folder in mine.parent.iterdir() if mine.parent.is_dir() else ():
        if folder != mine:
            remove_folder(folder)


def remove_attempts(work: Claimed) -> None:
    """What all attempts so far at the same work left, also those that were killed."""
    for left in work_folder(work).parent.glob(f"{work.id}.*"):
        remove_folder(left)
