"""A lock on a name, held until the transaction ends. Knows nothing of what it guards."""

from __future__ import annotations

import hashlib

from django.db import connection


def lock_until_commit(name: str) -> None:
    """Wait until no other transaction holds `name`. Call it first thing inside `transaction.atomic()`.

    On SQLite every transaction is IMMEDIATE (settings.py), so it already holds the only write lock there is.
    """
    if not connection.in_atomic_block:
        raise RuntimeError("lock_until_commit needs a transaction, or the lock is gone at once.")
    if connection.vendor == "postgresql":
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [number])
