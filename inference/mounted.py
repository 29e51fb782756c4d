"""Whether a shared folder is the one that holds this site's models, and not an empty one where it was to be mounted.

What is put into that is lost to all other hosts, and to this one once the storage is mounted over it.
"""

from __future__ import annotations

from django.db import connection

from inference.model_storage import CONTENTS
from inference.models import ServedModel
from webapp.core import shared_storage
from webapp.core.shared_storage import NotMounted


def check() -> None:
    """Asks the database only where the storage has no mark yet: where it is new, or older than marks are. Raises
    NotMounted and StorageError."""
    if not shared_storage.is_shared() or shared_storage.is_marked():
        return
    stored = ServedModel.objects.filter(removed_at=None).exclude(manifest="").order_by("pk")
    oldest = stored.values_list("manifest", flat=True).first()
    if not connection.in_atomic_block:
        connection.close()  # this thread may be one that only sends files
    if oldest is not None and not shared_storage.exists(f"{CONTENTS}/{oldest}.json"):
        raise NotMounted(
            "What this site keeps in the shared storage is not there: it is not mounted on this host, or STORAGE_URL "
            "names another folder."
        )


def check_and_mark() -> None:
    """Before anything is put there, and only then: the first model marks the storage. Raises as `check` does."""
    check()
    if shared_storage.is_shared() and not shared_storage.is_marked():
        shared_storage.mark()
