"""Whether the database's schema is the one this code knows, and bringing it there once. Knows no model of ours."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

from django.core.management import call_command
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader

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


@cache
def _known() -> tuple[set[str], set[tuple[str, str]]]:
    """The apps this code has migrations of, and those migrations, with what they replace."""
    loader = MigrationLoader(None)
    replaced = {key for migration in loader.disk_migrations.values() for key in migration.replaces}
    return set(loader.migrated_apps), {*loader.disk_migrations, *replaced}


def unknown_of(applied: Iterable[tuple[str, str]]) -> list[str]:
    """Of these (app, name), those that this code does not know, as `chat.0009_shared`: a newer Flywheel made them."""
    apps, known = _known()
    return [f"{app}.{name}" for app, name in applied if app in apps and (app, name) not in known]


def unknown() -> list[str]:
    """Names of applied migrations that this code does not know. One statement. Raises DatabaseError."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT app, name FROM django_migrations ORDER BY id")
        return unknown_of(cursor.fetchall())


NEWER_ADVICE = "Upgrade Flywheel, or restore a backup that was made before."


def newer(unknown: list[str]) -> str:
    return f"The database is of a newer Flywheel: it has the migration {unknown[0]}, which this one does not know."


def newer_sentence(unknown: list[str]) -> str:
    return f"{newer(unknown)} {NEWER_ADVICE}"


class SchemaIsNewer(Exception):
    """This code must not touch the database; the message is a sentence."""


def refusal() -> str | None:
    """A sentence where the schema is known to be stale, or newer. A database that is down is no reason to refuse."""
    try:
        missing = pending()
        too_new = [] if missing else unknown()
    except DatabaseError:
        return None
    finally:
        connection.close()
    if too_new:
        return newer_sentence(too_new)
    return sentence(missing) if missing else None


def migrate(lock_file: Path, says: Callable[[str], None]) -> list[str]:
    """Applies what is pending, by one process at a time; returns what was applied. `says` is told of what may take
    long. Raises SchemaIsNewer."""
    with _private_files(), _lock(lock_file, lambda: says("another process does it, and is waited for")):
        if "django_migrations" in connection.introspection.table_names() and (too_new := unknown()):
            raise SchemaIsNewer(newer_sentence(too_new))
        missing = pending()
        if missing:
            says(f"applying {len(missing)} migrations")
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
def _lock(lock_file: Path, is_taken: Callable[[], None]) -> Iterator[None]:
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [_ADVISORY_LOCK])
            if not cursor.fetchone()[0]:
                is_taken()
                cursor.execute("SELECT pg_advisory_lock(%s)", [_ADVISORY_LOCK])
            try:
                yield
            finally:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [_ADVISORY_LOCK])
    else:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        with lock_file.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                is_taken()
                fcntl.flock(file, fcntl.LOCK_EX)
            yield
