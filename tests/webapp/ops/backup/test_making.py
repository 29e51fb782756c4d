"""A backup made while people chat is whole, and goes on elsewhere."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
from pathlib import Path

import httpx
import pytest
from django.contrib.sessions.models import Session

from inference.models import Generation, ServedModel
from tests.chat_client import chat_page, generation_row
from tests.scripted_engine import text_of
from tests.services import Site, wait_until
from tests.webapp.ops.backup.kept import (
    LINES,
    back_up,
    begin_backup,
    every_file,
    every_row,
    half_done,
    refused,
    upload,
)
from training.models import Job
from webapp.accounts.models import Workspace
from webapp.ops.backup.manifest import read_manifest
from webapp.ops.backup.named_files import FOLDERS

pytestmark = pytest.mark.faults


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
