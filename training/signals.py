"""What deleting rows means for files, whichever way the rows go: a page, a workspace that goes with its last person."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.db import transaction
from django.db.models.signals import post_delete
from django.dispatch import receiver

from training import storage
from training.models import Dataset, DatasetVersion, Job, ResultFile, SourceFile


@receiver(post_delete, sender=Dataset)
def on_dataset_deleted(sender: object, instance: Dataset, **kwargs: Any) -> None:
    transaction.on_commit(partial(storage.remove_folder, storage.dataset_folder(instance.pk)))


@receiver(post_delete, sender=SourceFile)
def on_file_deleted(sender: object, instance: SourceFile, **kwargs: Any) -> None:
    transaction.on_commit(partial(storage.remove_file, storage.source_path(instance)))


@receiver(post_delete, sender=DatasetVersion)
def on_version_deleted(sender: object, instance: DatasetVersion, **kwargs: Any) -> None:
    transaction.on_commit(partial(storage.remove_folder, storage.version_folder(instance)))


@receiver(post_delete, sender=Job)
def on_job_deleted(sender: object, instance: Job, **kwargs: Any) -> None:
    # Where it runs, its worker hears of it with its next heartbeat, and removes what was written since.
    transaction.on_commit(partial(storage.remove_folder, storage.job_folder(instance)))


@receiver(post_delete, sender=ResultFile)
def on_result_deleted(sender: object, instance: ResultFile, **kwargs: Any) -> None:
    transaction.on_commit(partial(storage.remove_file, storage.result_path(instance.job_id)))
