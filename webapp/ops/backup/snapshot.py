"""The database as of one moment, read while others write. Inside, this thread's ORM reads that moment, too."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from django.db import connection, transaction

from webapp.ops.backup.manifest import SQLITE_FILE, TABLES
from webapp.ops.backup.pace import CHUNK, Pace, create, sync


@contextlib.contextmanager
def snapshot() -> Iterator[None]:
    """Everything read inside is of the moment it began."""
    if connection.vendor == "postgresql":
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            cursor.execute("SET LOCAL statement_timeout = 0")
            yield
        return
    # By hand: Django's transactions take the lock that writers need.
    connection.ensure_connection()
    with connection.cursor() as cursor:
        cursor.execute("BEGIN DEFERRED")
        cursor.execute("SELECT COUNT(*) FROM sqlite_master")  # it is the first read that begins it
        try:
            yield
        finally:
            cursor.execute("ROLLBACK")


def database_size() -> int:
    """In bytes, about."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT pg_database_size(current_database())")
            return int(cursor.fetchone()[0])
        cursor.execute("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()")
        return int(cursor.fetchone()[0])


def copy_database(folder: Path, pace: Pace) -> dict[str, int]:
    """Into `folder`; the rows of each table. Call it inside `snapshot`."""
    if connection.vendor == "postgresql":
        return _copy_tables(folder / TABLES, pace)
    _copy_sqlite(folder / SQLITE_FILE, pace)
    return count_rows()


def count_rows() -> dict[str, int]:
    with connection.cursor() as cursor:
        counted = {}
        for table in tables(cursor):
            cursor.execute(f"SELECT COUNT(*) FROM {quoted(table)}")  # noqa: S608 - a table's name
            counted[table] = int(cursor.fetchone()[0])
        return counted


def tables(cursor: Any) -> list[str]:
    return sorted(connection.introspection.table_names(cursor))


def quoted(name: str) -> str:
    return str(connection.ops.quote_name(name))


def _copy_sqlite(target: Path, pace: Pace) -> None:
    with create(target) as file, contextlib.closing(sqlite3.connect(target)) as copy:
        copy.execute("PRAGMA synchronous = OFF")  # it is synchronised as we go
        page = connection.connection.execute("PRAGMA page_size").fetchone()[0]
        before = 0

        def moved(status: int, remaining: int, total: int) -> None:
            nonlocal before
            sync(file)
            pace.moved((total - remaining - before) * page)
            before = total - remaining

        connection.connection.backup(copy, pages=CHUNK // page, progress=moved)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file
        copy.close()
        sync(file)


def _copy_tables(folder: Path, pace: Pace) -> dict[str, int]:
    counted = {}
    with connection.cursor() as cursor:
        for table in tables(cursor):
            cursor.execute(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema()"
                " AND table_name = %s AND is_generated = 'NEVER' ORDER BY ordinal_position",
                [table],
            )
            columns = [name for (name,) in cursor.fetchall()]
            statement = f"COPY {quoted(table)} ({', '.join(map(quoted, columns))}) TO STDOUT"
            with create(folder / f"{table}.copy") as file:
                # What follows are the rows, as COPY writes them.
                file.write(msgspec.json.encode(columns) + b"\n")
                unsynced = 0
                with cursor.copy(statement) as rows:
                    for block in rows:
                        file.write(block)
                        unsynced += len(block)
                        if unsynced >= CHUNK:
                            sync(file)
                            unsynced = 0
                        pace.moved(len(block))
                counted[table] = cursor.rowcount
                sync(file)
    return counted
