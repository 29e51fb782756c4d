"""Makes a backup of a running site: a folder that appears by one rename, verified, or nothing."""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
import sqlite3
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.recorder import MigrationRecorder

from webapp.core.durable import sync_path
from webapp.core.full_disk import is_full
from webapp.ops import schema
from webapp.ops.backup import snapshot
from webapp.ops.backup.alone import alone, held_folder, site_id
from webapp.ops.backup.held_files import HeldFiles
from webapp.ops.backup.last import LastBackup, note
from webapp.ops.backup.manifest import (
    FILES,
    SECRETS,
    BackupError,
    CopiedFile,
    Manifest,
    flywheel_version,
    read_manifest,
    write_manifest,
)
from webapp.ops.backup.named_files import BASE_MODELS, FOLDERS, models_in_shared_storage, named_files
from webapp.ops.backup.pace import Pace, copy_file, create, digest_file, sync
from webapp.ops.backup.verifying import verify
from webapp.ops.doctor import database
from webapp.ops.progress import Progress

_PREFIX, _INCOMING = "flywheel-", ".incoming-"
_NAME = re.compile(r"flywheel-\d{8}T\d{6}Z", re.ASCII)
_SPARE = 64 * 2**20  # what else the disk should have left


@dataclass(frozen=True)
class Made:
    path: Path
    manifest: Manifest
    seconds: float
    removed: list[Path]  # older ones
    unclaimed: list[Path]  # those that do not say whose they are, where older ones were to go


def make_backup(*, to: Path, base_models: bool, secrets: bool, keep: int | None, progress: Progress) -> Made:
    """`keep`: so many of this site's stay in `to`, the new one among them; None: all. Raises BackupError."""
    began = time.monotonic()
    home: Path = settings.FLYWHEEL_HOME
    to = to.expanduser().resolve()
    try:
        _check_target(to, home)
        with alone(home):
            to.mkdir(parents=True, exist_ok=True)
            site = site_id(home)
            # Of one that was killed. Another site's may be alive.
            for left in to.glob(f"{_INCOMING}{site}-*"):
                shutil.rmtree(left, ignore_errors=True)
            moment, folder = _new_name(to)
            aside = to / f"{_INCOMING}{site}-{folder.name}"
            try:
                aside.mkdir()
                manifest = _copy(aside, moment, site, base_models, secrets, progress)
                _verify(aside, manifest, progress)
                sync_path(aside)
                folder = _appear(aside, folder)
                sync_path(to)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                raise
            seconds = time.monotonic() - began
            _note(folder, manifest.size, seconds)
            removed, unclaimed = _remove_older(to, folder, site, keep) if keep is not None else ([], [])
    except sqlite3.Error as error:  # of the copy
        raise BackupError(f"{to} cannot be written: {error}.") from error
    except DatabaseError as error:
        why = database.wrong() or f"The database cannot be read: {str(error).strip()}"
        raise BackupError(why) from error
    except OSError as error:
        if is_full(error):
            raise BackupError(_full(error, to, home)) from error
        raise BackupError(f"{error.filename or to} cannot be read or written: {error.strerror}.") from error
    return Made(folder, manifest, seconds, removed, unclaimed)


# --- Before --------------------------------------------------------------------------------------------------
def _check_target(to: Path, home: Path) -> None:
    for name in (*FOLDERS, "run"):  # where files are held meanwhile, and whatever else is there goes
        if to.is_relative_to((home / name).resolve()):
            raise BackupError(f"{to} is inside what is backed up: choose another folder with --to.")
    # A stale one is backed up: nobody should have to migrate first.
    if unknown := schema.unknown():
        raise BackupError(schema.newer_sentence(unknown))


def _new_name(to: Path) -> tuple[datetime, Path]:
    while True:
        now = datetime.now(UTC)
        folder = to / now.strftime(f"{_PREFIX}%Y%m%dT%H%M%SZ")
        if not folder.exists():
            return now, folder
        time.sleep(0.1)


def _appear(aside: Path, folder: Path) -> Path:
    """Under that name, or the next where another site has taken it meanwhile."""
    while True:
        try:
            return aside.rename(folder)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        _, folder = _new_name(folder.parent)


def _full(error: OSError, to: Path, home: Path) -> str:
    """What is written names no file; folders for what is held do."""
    where = Path(error.filename or to)
    if where.is_relative_to(home) and not where.is_relative_to(to):
        return f"The disk of {home} is full: make room. Folders are made there while a backup copies files."
    return f"The disk of {to} is full: make room, or choose another folder with --to."


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + _SPARE > free:
        raise BackupError(
            f"The backup needs about {needed / 1e9:.2f} GB, and {folder.parent} has {free / 1e9:.2f} GB left: make "
            "room, or choose another folder with --to."
        )


# --- Copying ---------------------------------------------------------------------------------------------------
def _copy(
    folder: Path, moment: datetime, site: str, base_models: bool, secrets: bool, progress: Progress
) -> Manifest:
    home: Path = settings.FLYWHEEL_HOME
    missing, elsewhere = [], []
    pace = Pace()
    total = 0

    def so_far() -> str:
        return f"{pace.done / 1e6:.0f} MB" + (f" of {total / 1e6:.0f}" if total else "")

    with HeldFiles(home, held_folder(home)) as held:
        for name in FOLDERS:
            if base_models or name != BASE_MODELS:
                held.hold(Path(name))
        with snapshot.snapshot():
            found: dict[Path, Path] = {}  # where to read, by place in the home
            for named in named_files(base_models=base_models):
                if named.path.is_absolute():
                    elsewhere.append(str(named.path))
                    continue
                held.hold(named.path)
                files = held.files(named.path)
                found |= files
                if named.is_needed and not files:
                    missing.append(str(named.path))
            if shared := models_in_shared_storage():
                elsewhere.append(f"the storage that all hosts share (models: {shared})")
            total = snapshot.database_size() + sum(
                path.stat().st_size for path in found.values() if path.exists()
            )
            _check_room(folder, total)
            migrations = _applied()
            with progress.step("Copying the database", so_far):
                tables = snapshot.copy_database(folder, pace)
        copied = []
        with progress.step("Copying the files", so_far):
            for place, source in sorted(found.items()):
                try:
                    size, sha256 = copy_file(source, folder / FILES / place, pace)
                except FileNotFoundError:
                    missing.append(str(place))  # deleted meanwhile, on a disk without hard links
                    continue
                copied.append(CopiedFile(f"{FILES}/{place}", size, sha256))
    if secrets:
        with create(folder / SECRETS / "secret_key") as file:
            file.write(settings.SECRET_KEY.encode())
            sync(file)
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        if path.is_file() and place.parts[0] != FILES:
            copied.append(CopiedFile(str(place), *digest_file(path, Pace())))
    manifest = Manifest(
        created_at=moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        version=flywheel_version(),
        database=connection.vendor,
        migrations=migrations,
        tables=tables,
        files=copied,
        base_models=base_models,
        secrets=secrets,
        missing=missing,
        elsewhere=elsewhere,
        site=site,
    )
    write_manifest(folder, manifest)
    return manifest


def _applied() -> dict[str, list[str]]:
    applied: dict[str, list[str]] = {}
    for app, name in sorted(MigrationRecorder(connection).applied_migrations()):
        applied.setdefault(app, []).append(name)
    return applied


def _verify(folder: Path, manifest: Manifest, progress: Progress) -> None:
    pace = Pace()
    with progress.step("Verifying", lambda: f"{pace.done / 1e6:.0f} MB of {manifest.size / 1e6:.0f}"):
        problems = verify(folder, pace)
    if problems:
        raise BackupError(f"What was written is not what was read: {' '.join(problems)}")


# --- After -----------------------------------------------------------------------------------------------------
def _note(folder: Path, size: int, seconds: float) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        note(LastBackup(now, str(folder), size, round(seconds, 1)))
    except OSError as error:
        raise BackupError(
            f"{folder} is made and verified, but the site could not be told of it ({error.strerror}): see that "
            f"{settings.FLYWHEEL_HOME / 'run'} can be written."
        ) from error


def _remove_older(to: Path, newest: Path, site: str, keep: int) -> tuple[list[Path], list[Path]]:
    """Those that went: only what is surely a backup of this site, and never the new one. And those of nobody knows
    whom."""
    backups: dict[str, list[Path]] = {site: [], "": []}
    for path in sorted(to.iterdir(), reverse=True):
        if _NAME.fullmatch(path.name) and path != newest:
            with contextlib.suppress(BackupError):
                backups.setdefault(read_manifest(path).site, []).append(path)
    removed = backups[site][max(keep, 1) - 1 :]
    for path in removed:
        try:
            shutil.rmtree(path)
        except OSError as error:
            raise BackupError(
                f"{newest} is made and verified, but {path} could not be removed: {error.strerror or error}. Remove it "
                "by hand."
            ) from error
    return removed, backups[""]
