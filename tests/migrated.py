"""A database with today's schema: migrated once by the site's own command, and copied by every other site."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import django
import psycopg
from django.apps import apps
from django.conf import settings
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg.sql import SQL, Identifier


def migrated(url: str, migrate: Callable[[], object]) -> None:
    """The database at `url` has the schema afterwards; `migrate` gives it that where it holds something already, or
    there is none to copy."""
    if url.startswith("sqlite:///"):
        _file(Path(url.removeprefix("sqlite:///")), migrate)
    elif settings.TEST_SERVER:
        _on_server(url, migrate)
    else:
        migrate()


def _file(database: Path, migrate: Callable[[], object]) -> None:
    kept = _kept()
    kept.parent.mkdir(parents=True, exist_ok=True)
    with (kept.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if database.exists():  # restored, say
            migrate()
        elif kept.exists():
            shutil.copyfile(kept, database)
            database.chmod(0o600)
        else:
            migrate()
            made = shutil.copyfile(database, kept.with_suffix(f".{os.getpid()}"))
            made.rename(kept)


def _on_server(url: str, migrate: Callable[[], object]) -> None:
    name, kept = urlsplit(url).path.strip("/"), f"schema_{_fingerprint()}"
    with psycopg.connect(settings.TEST_SERVER, autocommit=True) as server:
        # Of processes that run tests beside this one.
        server.execute("SELECT pg_advisory_lock(hashtext(%s))", [kept])
        with psycopg.connect(url) as own:
            holds_something = own.execute("SELECT to_regclass('django_migrations')").fetchone() != (None,)
        if holds_something:
            migrate()
        elif server.execute("SELECT 1 FROM pg_database WHERE datname = %s", [kept]).fetchone():
            server.execute(SQL("DROP DATABASE {}").format(Identifier(name)))
            server.execute(SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(name), Identifier(kept)))
        else:
            migrate()
            server.execute(SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(kept), Identifier(name)))


def filled(connection: BaseDatabaseWrapper) -> bool:
    """Whether a new database has the schema afterwards: an SQLite one gets it at once, where there is one to copy."""
    if connection.vendor != "sqlite" or not _kept().exists():
        return False
    connection.ensure_connection()
    with contextlib.closing(sqlite3.connect(_kept())) as source:
        source.backup(connection.connection)
    return True


def _kept() -> Path:
    folder: Path = settings.MODEL_CACHE / "schemas"
    return folder / f"{_fingerprint()}.sqlite3"


@cache
def _fingerprint() -> str:
    """Of all that makes the schema what it is."""
    found = hashlib.sha256(django.__version__.encode())
    for app in apps.get_app_configs():
        for file in sorted(Path(app.path, "migrations").glob("*.py")):
            found.update(f"{app.label}/{file.name}\n".encode() + file.read_bytes())
    return found.hexdigest()[:16]
