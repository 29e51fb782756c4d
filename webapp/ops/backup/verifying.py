"""Whether a backup is whole: every file there, of its size and digest, and its database sound."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from webapp.ops.backup.manifest import SQLITE_FILE, BackupError, Manifest, read_manifest
from webapp.ops.backup.pace import Pace, digest_file


def verify(folder: Path, pace: Pace) -> list[str]:
    """A sentence for each thing that is wrong. Raises BackupError where nothing can be said, for lack of a manifest."""
    manifest = read_manifest(folder)
    problems = []
    for file in manifest.files:
        if Path(file.path).is_absolute() or ".." in Path(file.path).parts:
            raise BackupError(f"{folder} names a file outside itself: {file.path}.")
        try:
            size, sha256 = digest_file(folder / file.path, pace)
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


def _wrong_with_sqlite(path: Path, manifest: Manifest) -> list[str]:
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as database:
            found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                return [f"{path.name} is damaged: {found}."]
            wrong = []
            for table, rows in manifest.tables.items():
                count = database.execute(f'SELECT COUNT(*) FROM "{table}"').fetchone()[0]  # noqa: S608
                if count != rows:
                    wrong.append(f"The table {table} has {count} rows and should have {rows}.")
            return wrong
    except sqlite3.Error as error:
        return [f"{path.name} is damaged: {error}."]
