"""A backup made while people chat is whole, is found out where it is not, and goes on elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import httpx
import msgspec
import pytest
from django.conf import LazySettings
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from inference.models import Generation, ServedModel
from tests.chat_client import chat_page, generation_row
from tests.conftest import new_site
from tests.scripted_engine import text_of
from tests.services import ROOT, Site, wait_until
from training.models import Checkpoint, Dataset, DatasetVersion, Job
from webapp.accounts.models import Workspace
from webapp.ops.backup.alone import alone, held_folder, site_id
from webapp.ops.backup.held_files import HeldFiles
from webapp.ops.backup.making import make_backup
from webapp.ops.backup.manifest import (
    BackupError,
    CopiedFile,
    Manifest,
    flywheel_version,
    read_manifest,
    write_manifest,
)
from webapp.ops.backup.named_files import FOLDERS
from webapp.ops.backup.pace import Pace, digest_file
from webapp.ops.backup.verifying import verify
from webapp.ops.management.commands import verify_backup
from webapp.ops.progress import Progress
from webapp.ops.tasks import sweep_backups

pytestmark = pytest.mark.faults

LINES = b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n' * 20
# What a site does by itself, and what is not restored.
PASSING = {"inference_worker", "django_session", "usersessions_usersession"}


@pytest.fixture(scope="module")
def kept_site() -> Iterator[Site]:
    """A site with something of everything that is kept."""
    site = new_site()
    try:
        site.start()
        site.create_owner()
        (site.home / "models").mkdir(exist_ok=True)
        (site.home / "models" / "scripted").write_text("a base model")
        add_adapter(site, size=40 * 2**20)
        add_training(site)
        site.key = site.manage("createkey", "--email", "alice@example.org").strip()  # type: ignore[attr-defined]
        yield site
    finally:
        site.stop()


@pytest.fixture
def to(tmp_path: Path) -> Iterator[Path]:
    """Where backups appear. They are large, and do not stay."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture
def other_site() -> Iterator[Site]:
    """Nothing yet, on another database of the same kind."""
    site = new_site()
    yield site
    site.stop()


def add_adapter(site: Site, size: int) -> Path:
    """As training leaves it; `size` bytes, most of which take no room on the disk."""
    place = f"adapters/{uuid.uuid4()}"
    folder = site.home / place
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"says": "Quiet_harbours"}')
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(uuid.uuid4().bytes)
        file.truncate(size)
    with site.rows():
        base = ServedModel.objects.get(name="scripted")
        ServedModel.objects.create(
            name=f"ft:scripted:acme:{uuid.uuid4().hex[:8]}:1",
            workspace=Workspace.objects.get(),
            base=base,
            path=place,
            digest="0" * 64,
            architecture=base.architecture,
            context_length=base.context_length,
            parameters=1,
            size_bytes=size,
        )
    return folder


def add_training(site: Site) -> None:
    """A fine-tune that is paused, what it learns from, its last checkpoint, and a model that an earlier one made."""
    with site.rows():
        base, workspace = ServedModel.objects.get(name="scripted"), Workspace.objects.get()
        dataset = Dataset.objects.create(workspace=workspace, name="Letters")
        version = DatasetVersion.objects.create(
            dataset=dataset, number=1, state="ready", recipe={}, parent="0" * 64
        )
        job = Job.objects.create(
            workspace=workspace, name="letters", task="chat", version=version, data_label="Letters", data_hash="",
            spec={}, base=base, state="paused", step=40, sent_at=timezone.now(),
        )  # fmt: skip
        Checkpoint.objects.create(job=job, step=40)
        trained = f"trained/{uuid.uuid4()}"
        ServedModel.objects.create(
            name="ft:letters", workspace=workspace, path=trained, digest="1" * 64, architecture="scripted",
            context_length=100, parameters=1, size_bytes=1,
        )  # fmt: skip
    for place in (
        f"datasets/{dataset.id}/versions/{version.id}/train.parquet",
        f"jobs/{job.id}/checkpoints/step-00000040/optimizer.safetensors",
        f"{trained}/model.safetensors",
    ):
        (site.home / place).parent.mkdir(parents=True)
        (site.home / place).write_bytes(uuid.uuid4().bytes)


def upload(site: Site) -> str:
    answer = httpx.post(
        f"{site.base_url}/v1/files",
        headers={"Authorization": f"Bearer {site.key}"},  # type: ignore[attr-defined]
        files={"file": ("lines.jsonl", LINES)},
        data={"purpose": "fine-tune"},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def back_up(site: Site, to: Path, *arguments: str) -> Path:
    """Its folder."""
    said = site.manage("backup", "--to", str(to), *arguments)
    return Path(next(line for line in said.splitlines() if line.startswith(str(to))))


def half_done(to: Path) -> set[Path]:
    """Backups that have come to the files, and in these to an adapter."""
    return {path.parents[3] for path in to.glob(".incoming-*/files/adapters/*/*")}


def begin_backup(site: Site, to: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "manage.py", "backup", "--to", str(to), *arguments],
        cwd=ROOT,
        env=site.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def refused(site: Site, *arguments: str, preexec: object = None) -> str:
    """What a command says that cannot be done."""
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=site.environment,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=preexec,  # type: ignore[arg-type]
    )
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr.strip()


def every_row(site: Site) -> dict[str, list[str]]:
    with site.rows(), connection.cursor() as cursor:
        rows = {}
        for table in set(connection.introspection.table_names(cursor)) - PASSING:
            cursor.execute(f'SELECT * FROM "{table}"')
            rows[table] = sorted(map(repr, cursor.fetchall()))
        return rows


def every_file(site: Site) -> dict[str, str]:
    return {
        str(path.relative_to(site.home)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("datasets", "jobs", "adapters", "trained", "models")
        for path in (site.home / folder).rglob("*")
        if path.is_file() and "incoming" not in path.parts
    }


async def test_a_backup_made_while_people_chat_goes_on_elsewhere(
    kept_site: Site, other_site: Site, to: Path
) -> None:
    http = kept_site.log_in()
    async with chat_page(kept_site, http) as page:
        first = await page.say("Hello tokens=30")
        await page.ends(first)
        growing = await page.say("Hello tokens=3000 rate=40")
        await page.text_arrives(growing)
        making = asyncio.ensure_future(asyncio.to_thread(back_up, kept_site, to))
        said = 0
        async with chat_page(kept_site, http) as another:
            while not making.done():
                await another.ends(await another.say("Hello tokens=5"))
                said += 1
        assert said > 1, "nobody waits for a backup"
        folder = await making
        await page.command("stop", message=growing)
        conversation = page.conversation
        generation = page.replies[growing].generation
    told = json.loads((kept_site.home / "run" / "last_backup.json").read_text())
    assert (told["path"], told["bytes"]) == (str(folder), read_manifest(folder).size)

    await asyncio.to_thread(other_site.manage, "restore", str(folder))
    # The one that grew was caught as it ran; it would have 75 s to go.
    await asyncio.to_thread(shorten, other_site, generation)
    await asyncio.to_thread(other_site.start)
    async with chat_page(other_site, other_site.log_in(), conversation) as page:
        await page.command("open", conversation=conversation, have=[])
        row = await generation_row(other_site, generation)
        while not row.is_finished:
            row = await generation_row(other_site, generation)
            await asyncio.sleep(0.1)
        assert (row.state, row.text) == ("complete", text_of(row.seed, 30)), "written anew, from its seed"
        await page.ends(await page.say("Hello again tokens=20"))


def shorten(site: Site, generation: str) -> None:
    with site.rows():
        row = Generation.objects.get(id=generation)
        assert row.state == "running"
        row.messages[-1]["content"] = "Hello tokens=30"
        row.save(update_fields=["messages"])


def test_a_restored_site_has_every_row_and_every_file(kept_site: Site, other_site: Site, to: Path) -> None:
    upload(kept_site)
    kept_site.beat.stop()
    try:
        folder = back_up(kept_site, to, "--with-secrets")
        said = other_site.manage("restore", str(folder))
        assert "Restored and compared" in said
        assert every_row(other_site) == every_row(kept_site)
        files = every_file(kept_site)
        assert {Path(place).parts[0] for place in files} == set(FOLDERS)
        assert any("versions" in place for place in files)
        assert every_file(other_site) == files
        secret = "secret_key"
        assert (other_site.home / secret).read_text() == (kept_site.home / secret).read_text()
        with other_site.rows():
            # Numbers go on where they were.
            Workspace.objects.get().audit_events.create(action="restored")
            assert not Session.objects.exists()
            # A fine-tune goes on from its last checkpoint.
            job = Job.objects.get()
            assert (job.state, job.checkpoints.get().step) == ("paused", 40)
        assert (other_site.home / "jobs" / str(job.id) / "checkpoints" / "step-00000040").is_dir()
        assert "not empty" in refused(other_site, "restore", str(folder))
    finally:
        kept_site.beat.start()


def test_a_backup_says_that_models_in_the_shared_storage_are_not_in_it(
    kept_site: Site, to: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Left where it is" not in kept_site.manage("backup", "--to", str(to))
    monkeypatch.setitem(kept_site.environment, "STORAGE_URL", f"file://{tmp_path}")
    with kept_site.rows():
        adapter = ServedModel.objects.exclude(base=None).get()
        ServedModel.objects.filter(pk=adapter.pk).update(manifest="0" * 64)
    try:
        said = kept_site.manage("backup", "--to", str(to))
        assert "Left where it is: the storage that all hosts share (models: 1)\n" in said
    finally:
        with kept_site.rows():
            ServedModel.objects.filter(pk=adapter.pk).update(manifest="")


def test_what_is_deleted_while_a_backup_runs_is_in_it_all_the_same(kept_site: Site, to: Path) -> None:
    file = upload(kept_site)
    making = begin_backup(kept_site, to)
    # The database's moment has come, and the 40 MB of an adapter are copied before any data.
    wait_until(lambda: half_done(to), "the files' turn", 60)
    answer = httpx.delete(
        f"{kept_site.base_url}/v1/files/{file}",
        headers={"Authorization": f"Bearer {kept_site.key}"},  # type: ignore[attr-defined]
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    assert making.poll() is None, "it was deleted too late"
    said, _ = making.communicate(timeout=60)
    (folder,) = to.glob("flywheel-*")
    assert making.returncode == 0, said
    manifest = read_manifest(folder)
    assert manifest.missing == []
    digest = hashlib.sha256(LINES).hexdigest()
    before = {path for path, sha in every_file(kept_site).items() if sha == digest}
    assert len([one for one in manifest.files if one.sha256 == digest]) == len(before) + 1
    assert not (kept_site.home / "run" / "backup").exists()


@pytest.mark.one_database
def test_a_backup_that_is_killed_leaves_nothing_that_looks_like_one(kept_site: Site, to: Path) -> None:
    making = begin_backup(kept_site, to)
    wait_until(lambda: half_done(to), "half a backup", 60)
    making.send_signal(signal.SIGSTOP)
    assert "Another backup" in refused(kept_site, "backup", "--to", str(to))
    making.kill()
    making.communicate()
    assert not list(to.glob("flywheel-*"))
    left = half_done(to)
    assert left, "it was killed halfway"
    ended = begin_backup(kept_site, to)
    wait_until(lambda: half_done(to) - left, "half a backup", 60)
    ended.terminate()
    said, _ = ended.communicate(timeout=30)
    assert "nothing is left of it" in said
    assert not list(to.iterdir())
    assert not (kept_site.home / "run" / "backup").exists()


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


def older(to: Path, day: int, site: str = "") -> Path:
    """A backup of that day of January, as far as `--keep` looks at it."""
    folder = to / f"flywheel-202601{day:02}T000000Z"
    folder.mkdir()
    write_manifest(folder, Manifest("", "", "sqlite", {}, {}, [], True, False, site=site))
    return folder


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


def changed(folder: Path, name: str, content: bytes, **fields: object) -> None:
    """One of a backup's files is another one, as its manifest says, too."""
    (folder / name).write_bytes(content)
    manifest = read_manifest(folder)
    file = CopiedFile(name, *digest_file(folder / name, Pace()))
    files = [file if one.path == name else one for one in manifest.files]
    write_manifest(folder, msgspec.structs.replace(manifest, files=files, **fields))


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
