"""What deleting a trained model's row means for its files, whichever way the row goes: with its workspace, too."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.db import transaction
from django.db.models.signals import post_delete
from django.dispatch import receiver

from inference import model_storage
from inference.models import ServedModel


@receiver(post_delete, sender=ServedModel)
def on_model_deleted(sender: object, instance: ServedModel, **kwargs: Any) -> None:
    if instance.workspace_id is not None:
        transaction.on_commit(partial(model_storage.remove_kept, instance.kept))
