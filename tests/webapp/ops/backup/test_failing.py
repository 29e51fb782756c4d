"""A backup or a restore that cannot be done says why, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from pathlib import Path

import msgspec
import pytest
from django.conf import LazySettings
from django.db import connection

from tests.services import Site
from tests.webapp.ops.backup.kept import back_up, changed, every_file, refused
from webapp.accounts.models import Workspace
from webapp.ops.backup.alone import alone, held_folder
from webapp.ops.backup.held_files import HeldFiles
from webapp.ops.backup.making import make_backup
from webapp.ops.backup.manifest import BackupError, read_manifest, write_manifest
from webapp.ops.progress import Progress
from webapp.ops.tasks import sweep_backups

pytestmark = pytest.mark.faults


@pytest.mark.one_database
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("of", ["home", "target"])
def test_a_full_disk_is_named_by_the_folder_that_lies_on_it(
    settings: LazySettings, to: Path, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    settings.FLYWHEEL_HOME = to / "home"

    def full(held: HeldFiles) -> HeldFiles:
        raise OSError(
            errno.ENOSPC, "No space left on device", str(held_folder(to / "home")) if of == "home" else None
        )

    monkeypatch.setattr(HeldFiles, "__enter__", full)
    with pytest.raises(BackupError) as said:
        make_backup(
            to=to / "out", base_models=True, secrets=False, keep=None, progress=Progress(lambda _: None)
        )
    assert str(said.value).startswith(
        f"The disk of {to / {'home': 'home', 'target': 'out'}[of]} is full: make room"
    )


def test_what_a_killed_backup_holds_is_let_go_but_not_what_one_that_runs_does(
    settings: LazySettings, tmp_path: Path
) -> None:
    settings.FLYWHEEL_HOME = tmp_path
    held = held_folder(tmp_path) / "datasets" / "deleted"
    held.mkdir(parents=True)
    with alone(tmp_path):
        sweep_backups()
    assert held.exists()
    sweep_backups()
    assert not held.exists()
    sweep_backups()


def test_a_restore_that_fails_leaves_nothing_in_the_way_of_the_next_one(
    kept_site: Site, other_site: Site, to: Path
) -> None:
    folder = back_up(kept_site, to)
    models = other_site.home / "models"
    models.touch()  # the last of the folders
    assert "cannot be written: Not a directory." in refused(other_site, "restore", str(folder))
    models.unlink()
    if connection.vendor == "sqlite":  # PostgreSQL takes back what was written by itself
        database = other_site.home / "db.sqlite3.restoring"
        database.mkdir()
        assert f"{database} cannot be written: Is a directory." in refused(other_site, "restore", str(folder))
        database.rmdir()
    assert every_file(other_site) == {}
    other_site.manage("restore", str(folder))
    assert every_file(other_site) == every_file(kept_site)


def test_rows_that_lack_others_leave_neither_rows_nor_files(
    kept_site: Site, other_site: Site, to: Path
) -> None:
    folder = back_up(kept_site, to, "--with-secrets")
    is_sqlite = connection.vendor == "sqlite"
    usual = read_manifest(folder)
    table = "database.sqlite3" if is_sqlite else "tables/accounts_workspace.copy"
    rows = (folder / table).read_bytes()
    if is_sqlite:
        with contextlib.closing(sqlite3.connect(folder / table)) as database, database:
            database.execute("DELETE FROM accounts_workspace")
    lacking = (folder / table).read_bytes() if is_sqlite else rows.splitlines(keepends=True)[0]
    changed(folder, table, lacking, tables=usual.tables | {"accounts_workspace": 0})
    secret = (
        (other_site.home / "secret_key").read_bytes() if (other_site.home / "secret_key").exists() else None
    )
    said = refused(other_site, "restore", str(folder))
    assert "The database could not be restored: " in said
    if is_sqlite:
        assert "name rows of accounts_workspace that are not there" in said
    assert every_file(other_site) == {}
    if secret is not None:
        assert (other_site.home / "secret_key").read_bytes() == secret
    with other_site.rows(), connection.cursor() as cursor:
        assert connection.introspection.table_names(cursor) == []
    (folder / table).write_bytes(rows)
    write_manifest(folder, usual)
    other_site.manage("restore", str(folder))
    assert every_file(other_site) == every_file(kept_site)


@pytest.mark.one_database
def test_a_restored_site_whose_schema_cannot_be_brought_up_to_date_says_that_it_is_restored(
    kept_site: Site, other_site: Site, to: Path
) -> None:
    folder = back_up(kept_site, to)
    usual, file = read_manifest(folder), folder / "database.sqlite3"
    *earlier, last = usual.migrations["chat"]
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        database.execute("DELETE FROM django_migrations WHERE app = 'chat' AND name = ?", [last])
    tables = usual.tables | {"django_migrations": usual.tables["django_migrations"] - 1}
    migrations = usual.migrations | {"chat": earlier}
    changed(folder, file.name, file.read_bytes(), tables=tables, migrations=migrations)
    said = refused(other_site, "restore", str(folder))
    assert "All of it is restored and compared, but the schema could not be brought up to date" in said
    assert every_file(other_site) == every_file(kept_site)
    with other_site.rows():
        assert Workspace.objects.count() == 1


@pytest.mark.one_database
def test_what_cannot_be_backed_up_or_restored_is_refused_with_a_sentence(
    kept_site: Site, other_site: Site, to: Path
) -> None:
    inside = kept_site.home / "datasets" / "backups"
    for wrong in (inside, kept_site.home / "run" / "backup"):
        assert "inside what is backed up" in refused(kept_site, "backup", "--to", str(wrong))
    (to / "file").touch()
    assert "cannot be" in refused(kept_site, "backup", "--to", str(to / "file"))
    assert "no backup" in refused(other_site, "restore", str(to))
    folder = back_up(kept_site, to)
    usual = read_manifest(folder)
    newer = {**usual.migrations, "chat": [*usual.migrations["chat"], "0999_shared"]}
    write_manifest(folder, msgspec.structs.replace(usual, migrations=newer))
    assert "newer Flywheel" in refused(other_site, "restore", str(folder))
    write_manifest(folder, msgspec.structs.replace(usual, database="oracle"))
    assert "of the same kind" in refused(other_site, "restore", str(folder))
    write_manifest(folder, msgspec.structs.replace(usual, tables={**usual.tables, "chat_message": 10_000}))
    assert "chat_message has" in refused(other_site, "restore", str(folder))
    with contextlib.suppress(FileNotFoundError):
        assert not list((other_site.home / "adapters").iterdir())
    write_manifest(folder, usual)
    (to / "homeless").touch()
    nowhere = to / "homeless" / "flywheel"
    usual_environment = other_site.environment
    other_site.environment = {**usual_environment, "FLYWHEEL_HOME": str(nowhere), "SECRET_KEY": "s" * 50}
    assert refused(other_site, "restore", str(folder)) == (
        f"flywheel: {nowhere} cannot be made (Not a directory): make it, owned by who runs this."
    )
    other_site.environment = usual_environment
    other_site.manage("restore", str(folder))
