"""What a site has that is kept, its backups, and what commands make of them: for tests of backups."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import uuid
from pathlib import Path

import httpx
import msgspec
from django.db import connection
from django.utils import timezone

from inference.models import ServedModel
from tests.services import ROOT, Site
from training.models import Checkpoint, Dataset, DatasetVersion, Job
from webapp.accounts.models import Workspace
from webapp.ops.backup.manifest import CopiedFile, Manifest, read_manifest, write_manifest
from webapp.ops.backup.pace import Pace, digest_file

LINES = b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n' * 20
# What a site does by itself, and what is not restored.
PASSING = {"inference_worker", "django_session", "usersessions_usersession"}


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


def older(to: Path, day: int, site: str = "") -> Path:
    """A backup of that day of January, as far as `--keep` looks at it."""
    folder = to / f"flywheel-202601{day:02}T000000Z"
    folder.mkdir()
    write_manifest(folder, Manifest("", "", "sqlite", {}, {}, [], True, False, site=site))
    return folder


def changed(folder: Path, name: str, content: bytes, **fields: object) -> None:
    """One of a backup's files is another one, as its manifest says, too."""
    (folder / name).write_bytes(content)
    manifest = read_manifest(folder)
    file = CopiedFile(name, *digest_file(folder / name, Pace()))
    files = [file if one.path == name else one for one in manifest.files]
    write_manifest(folder, msgspec.structs.replace(manifest, files=files, **fields))
