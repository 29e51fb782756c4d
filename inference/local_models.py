"""A model's files on this host: where they lie, or fetched from the shared storage. Knows not what is in them."""

from __future__ import annotations

import logging
from collections.abc import Callable

from inference import model_storage
from inference.engine.interface import EngineError
from inference.models import ServedModel
from webapp.core import shared_storage
from webapp.core.content_cache import Held
from webapp.core.shared_storage import StorageError

logger = logging.getLogger(__name__)


class NotHere(EngineError):
    """A model's files are not on this host and cannot be brought here."""

    code = "model_not_here"


def hold(model: ServedModel, is_unwanted: Callable[[], bool] = lambda: False) -> Held:
    """Its files are at `model.location` until this is released. It takes its time where they have to be fetched.

    Raises NotHere; where it `is_unwanted` any more, too. What lies on this host alone is not looked at.
    """
    if model.is_stored:
        try:
            return model_storage.cache().hold(model.manifest, is_unwanted)
        except StorageError as error:
            raise NotHere(str(error)) from error
    if shared_storage.is_shared() and not model.location.exists():
        raise NotHere(
            f"{model.name} is not in the shared storage: run `manage.py models publish` on the host that has it."
        )
    return Held(model.location)


def forget_removed() -> None:
    """Removes what is not a model of this site any more from what this host keeps."""
    if shared_storage.is_shared():
        present = ServedModel.objects.filter(removed_at=None).exclude(manifest="")
        known = set(present.values_list("manifest", flat=True))
        try:
            model_storage.cache().forget(known.__contains__)
        except OSError as error:
            logger.error("what was removed is still in the cache of this host: %s", error)
