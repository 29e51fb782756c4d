"""Whether the database's schema is the one this code needs, and bringing it there once. Knows no model of ours."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from django.core.management import call_command
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor

# Any number, the same in every version of the site: who holds it migrates.
_ADVISORY_LOCK = 0x666C7977
_current = threading.Event()


def pending() -> list[str]:
    """Names of the migrations that were not applied yet, such as `chat.0002_folders`. Raises DatabaseError.

    Once there are none, this process does not look again: migrations are not taken back under a running site.
    """
    if _current.is_set():
        return []
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if not plan:
        _current.set()
    return [f"{migration.app_label}.{migration.name}" for migration, _ in plan]


def sentence(missing: list[str]) -> str:
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return f"The database lacks the migration {missing[0]}{more}: run `python manage.py migrate_locked`."


def refuse_if_stale() -> str | None:
    """A sentence where the schema is known to be stale. A database that is down is no reason to refuse."""
    try:
        missing = pending()
    except DatabaseError:
        return None
    finally:
        connection.close()
    return sentence(missing) if missing else None


def migrate(lock_file: Path) -> list[str]:
    """Applies what is pending, by one process at a time; returns what was applied."""
    with _private_files(), _lock(lock_file):
        missing = pending()
        if missing:
            call_command("migrate", interactive=False, verbosity=0)
        return missing


@contextlib.contextmanager
def _private_files() -> Iterator[None]:
    """An SQLite file is made by the first look at it, and its journals take its permissions."""
    usual = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(usual)


@contextlib.contextmanager
def _lock(lock_file: Path) -> Iterator[None]:
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [_ADVISORY_LOCK])
            try:
                yield
            finally:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [_ADVISORY_LOCK])
    else:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        with lock_file.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
