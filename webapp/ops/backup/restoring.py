"""Puts a backup into an empty home and an empty database, verified before anything is written and compared after."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from django.conf import settings
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction
from django.db.migrations.executor import MigrationExecutor

from webapp.ops.backup.manifest import (
    FILES,
    SECRETS,
    SQLITE_FILE,
    TABLES,
    BackupError,
    Manifest,
    read_manifest,
)
from webapp.ops.backup.named_files import FOLDERS
from webapp.ops.backup.pace import Pace, copy_file
from webapp.ops.backup.snapshot import quoted, tables
from webapp.ops.backup.verifying import verify
from webapp.ops.doctor import database
from webapp.ops.progress import Progress
from webapp.ops.schema import unknown_of

_ASIDE = ".restoring"
# Log-ins: one that was ended after the backup must not come to life again.
_NOT_RESTORED = ("usersessions_usersession", "django_session")
_BLOCK = 2**20


def check(folder: Path, progress: Progress) -> Manifest:
    """Raises BackupError, which names all that is wrong."""
    manifest = read_manifest(folder)
    pace = Pace()
    with progress.step("Verifying", lambda: f"{pace.done / 1e6:.0f} MB of {manifest.size / 1e6:.0f}"):
        problems = verify(folder, pace)
    if problems:
        raise BackupError(
            f"{folder} is damaged: {' '.join(problems[:20])}"
            + (f" And {len(problems) - 20} more." if len(problems) > 20 else "")
            + " Use another backup."
        )
    return manifest


def restore(folder: Path, progress: Progress) -> Manifest:
    """Raises BackupError; then there is nothing, as before, unless it is the schema that stayed as it was."""
    manifest = read_manifest(folder)
    home: Path = settings.FLYWHEEL_HOME
    _check_code(manifest)
    _check_empty(manifest, home)
    check(folder, progress)
    aside = home / _ASIDE
    try:
        shutil.rmtree(aside, ignore_errors=True)  # of one that was killed
        _copy_files(folder, manifest, aside, progress)
        with progress.step("Restoring the database"), contextlib.ExitStack() as back:
            if connection.vendor == "postgresql":
                with transaction.atomic():
                    _load_tables(folder / TABLES, manifest)
                    with connection.cursor() as cursor:
                        _finish(manifest, cursor)
                        # Which the commit would do, slowly, with the files moved: whoever is killed in it leaves them.
                        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
                    _move_files(aside, home, back)
            else:
                with _sqlite_beside(aside / SQLITE_FILE, manifest) as ready:
                    _move_files(aside, home, back)
                    _put_sqlite(ready)
            back.pop_all()  # not before the commit: what fails leaves neither rows nor files
    except (DatabaseError, sqlite3.Error) as error:
        raise BackupError(f"The database could not be restored: {str(error).strip()}") from error
    except OSError as error:
        raise BackupError(f"{error.filename or home} cannot be written: {error.strerror}.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    try:
        with progress.step("Bringing the schema up to date"):
            call_command("migrate", interactive=False, verbosity=0)
    except DatabaseError as error:
        raise BackupError(
            "All of it is restored and compared, but the schema could not be brought up to date: "
            f"{str(error).strip()}. Mend that, and run `python manage.py migrate_locked`; do not restore once more."
        ) from error
    return manifest


# --- Before ------------------------------------------------------------------------------------------------------
def _check_code(manifest: Manifest) -> None:
    applied = [(app, name) for app, names in manifest.migrations.items() for name in names]
    if unknown := unknown_of(applied):
        raise BackupError(
            f"This backup is of a newer Flywheel ({manifest.version}, with {unknown[0]}): upgrade this one first."
        )
    if manifest.database != connection.vendor:
        raise BackupError(
            f"This backup is of a {manifest.database} database and DATABASE_URL names a {connection.vendor} one: "
            "set DATABASE_URL to an empty database of the same kind."
        )


def _check_empty(manifest: Manifest, home: Path) -> None:
    try:
        with connection.cursor() as cursor:
            if tables(cursor):
                raise BackupError(
                    "The database is not empty, and nothing is overwritten: name a new one with DATABASE_URL, or a new "
                    "folder with FLYWHEEL_HOME."
                )
    except DatabaseError as error:
        raise BackupError(
            database.unusable() or f"The database does not answer: {str(error).strip()}"
        ) from error
    for name in FOLDERS:
        if (home / name).is_dir() and any((home / name).iterdir()):
            raise BackupError(
                f"{home / name} is not empty, and nothing is overwritten: set FLYWHEEL_HOME to a new folder, or move "
                "it away."
            )
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BackupError(
            f"{home} cannot be made ({error.strerror}): make it, owned by who runs this."
        ) from error
    free = shutil.disk_usage(home).free
    if manifest.size > free:
        raise BackupError(
            f"The backup has {manifest.size / 1e9:.2f} GB, and {home} has {free / 1e9:.2f} GB left: make room."
        )


# --- Writing -----------------------------------------------------------------------------------------------------
def _copy_files(folder: Path, manifest: Manifest, aside: Path, progress: Progress) -> None:
    """All but the tables, which go straight into their database."""
    pace = Pace()
    with progress.step("Copying the files", lambda: f"{pace.done / 1e6:.0f} MB of {manifest.size / 1e6:.0f}"):
        for file in manifest.files:
            if Path(file.path).parts[0] == TABLES:
                continue
            if copy_file(folder / file.path, aside / file.path, pace) != (file.size, file.sha256):
                raise BackupError(f"{file.path} was read twice and differs: the disk of {folder} is failing.")


@contextlib.contextmanager
def _sqlite_beside(copy: Path, manifest: Manifest) -> Iterator[Path]:
    """`copy` beside the database's place, which may be on another disk, as it is going to be: what may run out of room
    is over, and names are all that is left to be changed."""
    target = Path(connection.settings_dict["NAME"])
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f"{target.name}{_ASIDE}")
    beside.unlink(missing_ok=True)  # of one that was killed
    try:
        shutil.move(copy, beside)
        with contextlib.closing(sqlite3.connect(beside)) as database, database:
            _finish(manifest, database.cursor())
            _check_references(database)
        yield beside
    finally:
        beside.unlink(missing_ok=True)


def _check_references(database: sqlite3.Connection) -> None:
    """What PostgreSQL does by itself: SQLite looks at rows that are written, and not at a file that is put there."""
    lacking = Counter((table, parent) for table, _, parent, _ in database.execute("PRAGMA foreign_key_check"))
    if lacking:
        ((table, parent), count), *others = lacking.most_common()
        more = f", and {len(others)} other tables lack some, too" if others else ""
        raise BackupError(
            f"The database could not be restored: {count} rows of {table} name rows of {parent} that are not "
            f"there{more}. It was damaged before it was backed up. Use an earlier backup."
        )


def _put_sqlite(ready: Path) -> None:
    connection.close()
    target = Path(connection.settings_dict["NAME"])
    for journal in ("-wal", "-shm"):  # of the empty database that was looked at
        target.with_name(target.name + journal).unlink(missing_ok=True)
    os.replace(ready, target)


def _load_tables(folder: Path, manifest: Manifest) -> None:
    """Migrates to where the backup was, then puts every row where it was."""
    executor = MigrationExecutor(connection)
    graph = executor.loader.graph
    there = {(app, name) for app, names in manifest.migrations.items() for name in names} & graph.nodes.keys()
    # Only those that no other comes after: the rest comes with them, and would be taken for the wish to go back to it.
    earlier = {parent.key for key in there for parent in graph.node_map[key].parents}
    executor.migrate(sorted(there - earlier))
    with connection.cursor() as cursor:
        everything = ", ".join(map(quoted, tables(cursor)))
        # Migrations write rows, too. Nothing may be left to be checked of what is taken away.
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute(f"TRUNCATE {everything}")
        cursor.execute("SET CONSTRAINTS ALL DEFERRED")
        for table in manifest.tables:
            with (folder / f"{table}.copy").open("rb") as file:
                columns = ", ".join(map(quoted, msgspec.json.decode(file.readline(), type=list[str])))
                with cursor.copy(f"COPY {quoted(table)} ({columns}) FROM STDIN") as rows:
                    while block := file.read(_BLOCK):
                        rows.write(block)
        _continue_sequences(cursor)


def _continue_sequences(cursor: Any) -> None:
    """New rows are numbered after those that came."""
    cursor.execute(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema()"
        " AND (is_identity = 'YES' OR column_default LIKE 'nextval(%')"
    )
    for table, column in cursor.fetchall():
        cursor.execute(
            f"SELECT setval(pg_get_serial_sequence(%s, %s), COALESCE(MAX({quoted(column)}), 0) + 1, false)"  # noqa: S608
            f" FROM {quoted(table)}",
            [quoted(table), column],
        )


def _move_files(aside: Path, home: Path, back: contextlib.ExitStack) -> None:
    """`back` undoes it, however far it came."""

    def move(source: Path, target: Path) -> None:
        source.rename(target)
        back.callback(target.rename, source)

    for name in FOLDERS:
        if (aside / FILES / name).exists():
            with contextlib.suppress(FileNotFoundError):
                (home / name).rmdir()
            move(aside / FILES / name, home / name)
    if (aside / SECRETS / "secret_key").exists():
        with contextlib.suppress(FileNotFoundError):
            move(home / "secret_key", aside / "secret_key")  # the one that commands have made for themselves
        move(aside / SECRETS / "secret_key", home / "secret_key")


# --- After -------------------------------------------------------------------------------------------------------
def _finish(manifest: Manifest, cursor: Any) -> None:
    for table, rows in manifest.tables.items():
        cursor.execute(f"SELECT COUNT(*) FROM {quoted(table)}")  # noqa: S608 - a table's name
        (counted,) = cursor.fetchone()
        if counted != rows:
            raise BackupError(f"The table {table} has {counted} rows and should have {rows}.")
    for table in _NOT_RESTORED:
        cursor.execute(f"DELETE FROM {quoted(table)}")  # noqa: S608 - a table's name
