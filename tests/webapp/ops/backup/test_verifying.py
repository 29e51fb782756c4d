"""A backup that is not whole, or not what it says, is found out."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import subprocess
from io import StringIO
from pathlib import Path

import msgspec
import pytest
from django.core.management import call_command

from tests.services import Site
from tests.webapp.ops.backup.kept import back_up, refused, upload
from webapp.ops.backup.manifest import CopiedFile, Manifest, flywheel_version, read_manifest, write_manifest
from webapp.ops.backup.pace import Pace, digest_file
from webapp.ops.backup.verifying import verify
from webapp.ops.management.commands import verify_backup

pytestmark = pytest.mark.faults


@pytest.mark.one_database
def test_verifying_names_each_file_that_is_damaged_or_missing(kept_site: Site, to: Path) -> None:
    upload(kept_site)
    folder = back_up(kept_site, to, "--without-base-models")
    data = sorted((folder / "files" / "datasets").rglob("sources/*"))
    with data[0].open("r+b") as file:
        file.write(b"X")
    (config,) = (folder / "files").rglob("adapter_config.json")
    config.unlink()
    said = refused(kept_site, "verify_backup", str(folder))
    assert f"{data[0].relative_to(folder)} is damaged." in said
    assert f"{config.relative_to(folder)} is missing." in said
    with (folder / "manifest.json").open("r+b") as file:
        file.seek(200)
        file.write(b"?")
    assert "manifest.json is damaged" in refused(kept_site, "restore", "--check", str(folder))


def test_it_knows_by_which_version_of_the_code_it_was_made(tmp_path: Path) -> None:
    """Which nobody has installed as a package."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "flywheel"\nversion = "1.2.3"\n')
    assert flywheel_version(tmp_path) == "1.2.3"

    def git(*arguments: str) -> str:
        command = [
            "git",
            "-C",
            str(tmp_path),
            "-c",
            "user.name=A",
            "-c",
            "user.email=a@example.org",
            *arguments,
        ]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    git("commit", "--allow-empty", "--message", "The first")
    assert flywheel_version(tmp_path) == f"1.2.3+{git('rev-parse', '--short', 'HEAD')}"
    (tmp_path / "pyproject.toml").unlink()
    assert flywheel_version(tmp_path) == "unknown"


@pytest.mark.parametrize(
    ("version", "said"), [("1.2.3+abc1234", "by Flywheel 1.2.3+abc1234."), ("unknown", "by Flywheel.")]
)
def test_verifying_says_by_which_version_where_that_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, said: str
) -> None:
    manifest = Manifest("2026-11-29T13:45:00Z", version, "sqlite", {}, {}, [], False, False)
    monkeypatch.setattr(f"{verify_backup.__name__}.check", lambda *_: manifest)
    monkeypatch.setattr(f"{verify_backup.__name__}.yield_to_everybody", lambda: None)
    lines = StringIO()
    call_command("verify_backup", str(tmp_path), stdout=lines)
    assert lines.getvalue().strip().endswith(said)


def test_a_backup_is_for_its_owner_alone_and_reaches_nothing_outside_itself(
    kept_site: Site, other_site: Site, to: Path
) -> None:
    folder = back_up(kept_site, to, "--with-secrets")
    for path in (folder, *folder.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
    usual = read_manifest(folder)
    outside = msgspec.structs.replace(usual.files[0], path="files/../../../secret")
    write_manifest(folder, msgspec.structs.replace(usual, files=[outside]))
    assert "outside itself" in refused(other_site, "restore", str(folder))


def test_what_a_strangers_backup_hides_is_found_before_anything_is_restored(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"secret")
    folder = tmp_path / "backup"
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(folder / "files" / "pipe")
    with contextlib.closing(sqlite3.connect(folder / "database.sqlite3")) as database:
        database.execute("CREATE TABLE people (name)")
        database.execute(
            "CREATE TRIGGER comes_back AFTER DELETE ON people BEGIN INSERT INTO people VALUES (1); END"
        )
        database.commit()

    def found(*names: str) -> list[str]:
        files = [CopiedFile(name, *copied(folder / name)) for name in names]
        write_manifest(folder, Manifest("", "", "sqlite", {}, {"people": 0}, files, True, False))
        return verify(folder, Pace())

    def copied(path: Path) -> tuple[int, str]:
        return (
            (6, hashlib.sha256(b"secret").hexdigest()) if path.parent != folder else digest_file(path, Pace())
        )

    assert found("files/link", "files/pipe", "database.sqlite3") == [
        "files/link is no file.",
        "files/pipe is no file.",
    ]
    assert found("database.sqlite3") == ["database.sqlite3 holds comes_back, which acts by itself."]
    assert found() == ["database.sqlite3 is not in it."]
