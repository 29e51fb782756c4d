"""Whether a backup is whole: every file there, of its size and digest, and its database sound."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from webapp.ops.backup.manifest import SQLITE_FILE, TABLES, BackupError, Manifest, read_manifest
from webapp.ops.backup.pace import Pace, digest_file


def verify(folder: Path, pace: Pace) -> list[str]:
    """A sentence for each thing that is wrong. Raises BackupError where nothing can be said, for lack of a manifest."""
    manifest = read_manifest(folder)
    folder = folder.resolve()
    named = {file.path for file in manifest.files}
    problems = [f"{needed} is not in it." for needed in _needed(manifest) if needed not in named]
    for file in manifest.files:
        if Path(file.path).is_absolute() or ".." in Path(file.path).parts:
            raise BackupError(f"{folder} names a file outside itself: {file.path}.")
        # What is no file may lead elsewhere, or be read for ever.
        if os.path.lexists(path := folder / file.path) and not (path.resolve() == path and path.is_file()):
            problems.append(f"{file.path} is no file.")
            continue
        try:
            size, sha256 = digest_file(path, pace)
        except FileNotFoundError:
            problems.append(f"{file.path} is missing.")
        except OSError as error:
            problems.append(f"{file.path} cannot be read: {error.strerror}.")
        else:
            if size != file.size:
                problems.append(f"{file.path} has {size} bytes and should have {file.size}.")
            elif sha256 != file.sha256:
                problems.append(f"{file.path} is damaged.")
    if manifest.database == "sqlite" and not problems:
        problems += _wrong_with_sqlite(folder / SQLITE_FILE, manifest)
    return problems


def _needed(manifest: Manifest) -> list[str]:
    """What the database is restored from."""
    if manifest.database == "sqlite":
        return [SQLITE_FILE]
    return [f"{TABLES}/{table}.copy" for table in manifest.tables]


def _wrong_with_sqlite(path: Path, manifest: Manifest) -> list[str]:
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as database:
            found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                return [f"{path.name} is damaged: {found}."]
            # A site's database has none; one that came with somebody's backup would go on acting here.
            acts = "SELECT name FROM sqlite_master WHERE type IN ('trigger', 'view')"
            wrong = [f"{path.name} holds {name}, which acts by itself." for (name,) in database.execute(acts)]
            for table, rows in manifest.tables.items():
                count = database.execute(f"SELECT COUNT(*) FROM {_quoted(table)}").fetchone()[0]  # noqa: S608
                if count != rows:
                    wrong.append(f"The table {table} has {count} rows and should have {rows}.")
            return wrong
    except sqlite3.Error as error:
        return [f"{path.name} is damaged: {error}."]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
