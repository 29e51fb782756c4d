"""Which backups go when a new one is made: a site's own, and no other's."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import msgspec
import pytest
from django.conf import LazySettings
from django.core.management import call_command

from tests.services import Site, wait_until
from tests.webapp.ops.backup.kept import back_up, begin_backup, half_done, older, refused
from webapp.ops.backup.alone import site_id
from webapp.ops.backup.manifest import read_manifest, write_manifest
from webapp.ops.backup.pace import Pace
from webapp.ops.backup.verifying import verify

pytestmark = pytest.mark.faults


@pytest.mark.one_database
def test_older_backups_go_once_the_new_one_is_verified(kept_site: Site, to: Path) -> None:
    own = site_id(kept_site.home)
    old = [older(to, 1, own), older(to, 2, own)]
    strange = to / "flywheel-20260103T000000Z"
    strange.mkdir()
    too_small = {"preexec": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))}
    said = refused(kept_site, "backup", "--to", str(to), "--keep", "2", **too_small)  # type: ignore[arg-type]
    assert "written" in said
    assert sorted(to.iterdir()) == [*old, strange]
    folder = back_up(kept_site, to, "--keep", "2")
    assert sorted(to.iterdir()) == sorted([old[1], strange, folder])


@pytest.mark.one_database
def test_a_backup_that_is_made_is_not_called_failed_for_what_comes_after_it(
    kept_site: Site, to: Path
) -> None:
    old, elsewhere = to / "flywheel-20260101T000000Z", to / "elsewhere"
    older(to, 1, site_id(kept_site.home)).rename(elsewhere)
    old.symlink_to(elsewhere)
    said = refused(kept_site, "backup", "--to", str(to), "--keep", "1")
    (folder,) = set(to.glob("flywheel-*")) - {old}
    assert said == (
        f"flywheel: {folder} is made and verified, but {old} could not be removed: Cannot call rmtree on a symbolic "
        "link. Remove it by hand."
    )
    unwritable = kept_site.home / "run" / "last_backup.new"
    unwritable.mkdir()
    try:
        said = refused(kept_site, "backup", "--to", str(to))
    finally:
        unwritable.rmdir()
    (another,) = set(to.glob("flywheel-*")) - {old, folder}
    assert said == (
        f"flywheel: {another} is made and verified, but the site could not be told of it (Is a directory): see that "
        f"{kept_site.home / 'run'} can be written."
    )


@pytest.mark.one_database
def test_two_sites_that_back_up_into_one_folder_leave_each_others_backups_alone(
    kept_site: Site, other_site: Site, to: Path
) -> None:
    other_site.migrate()
    others = [older(to, day, site_id(other_site.home)) for day in (1, 2)]
    making = begin_backup(kept_site, to, "--keep", "1")
    wait_until(lambda: half_done(to), "half a backup", 60)
    making.send_signal(signal.SIGSTOP)
    try:
        said = other_site.manage("backup", "--to", str(to), "--keep", "2")
    finally:
        making.send_signal(signal.SIGCONT)
    assert said.count("Removed: ") == 1
    whole, _ = making.communicate(timeout=60)
    assert making.returncode == 0, whole
    assert others[1].exists()
    left = [read_manifest(folder).site for folder in to.glob("flywheel-*")]
    assert sorted(left) == sorted([site_id(other_site.home)] * 2 + [site_id(kept_site.home)])


@pytest.mark.one_database
def test_a_name_that_another_site_takes_meanwhile_is_left_to_it(kept_site: Site, to: Path) -> None:
    making = begin_backup(kept_site, to)
    (aside,) = wait_until(lambda: half_done(to), "half a backup", 60)
    taken = to / f"flywheel-{aside.name.rpartition('-')[2]}"
    taken.mkdir()
    (taken / "manifest.json").touch()
    said, _ = making.communicate(timeout=60)
    assert making.returncode == 0, said
    (made,) = set(to.glob("flywheel-*")) - {taken}
    assert verify(made, Pace()) == []


@pytest.mark.one_database
def test_backups_of_nobody_knows_whom_are_left_until_they_are_claimed(
    kept_site: Site, other_site: Site, to: Path, settings: LazySettings
) -> None:
    settings.FLYWHEEL_HOME = kept_site.home
    old = [older(to, day) for day in (1, 2)]
    said = kept_site.manage("backup", "--to", str(to), "--keep", "1")
    assert "2 older backups there do not say of which site they are" in said
    assert all(folder.exists() for folder in old)
    with pytest.raises(SystemExit, match="no backup"):
        call_command("claim_backups", str(old[0]), str(to))
    assert read_manifest(old[0]).site == ""
    call_command("claim_backups", *map(str, old))
    said = kept_site.manage("backup", "--to", str(to), "--keep", "2")
    assert not any(folder.exists() for folder in old)
    assert "do not say" not in said
    # One that says nothing is restored as ever.
    newest = max(to.glob("flywheel-*"))
    write_manifest(newest, msgspec.structs.replace(read_manifest(newest), site=""))
    assert "Restored and compared" in other_site.manage("restore", str(newest))
