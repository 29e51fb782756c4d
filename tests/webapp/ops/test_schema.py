"""Migrations run once however many processes start, and nothing serves on a stale schema, or a newer one."""

from __future__ import annotations

import contextlib
import fcntl
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from django.db import connection

from tests.conftest import new_site
from tests.services import ROOT, Site
from webapp.ops import processes, schema

pytestmark = pytest.mark.faults


@pytest.fixture
def empty_site() -> Iterator[Site]:
    """A site whose database has no table yet; nothing runs."""
    site = new_site()
    yield site
    site.stop()


def test_processes_that_start_together_migrate_once(empty_site: Site) -> None:
    command = [sys.executable, "manage.py", "migrate_locked"]
    started = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=empty_site.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(3)
    ]
    said = [process.communicate(timeout=120)[0].strip() for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], said
    assert sorted(text.splitlines()[-1].split()[0] for text in said) == ["Applied", "The", "The"]


def test_a_process_that_waits_for_another_one_to_migrate_says_so_at_once(empty_site: Site) -> None:
    (empty_site.home / "run").mkdir(exist_ok=True)
    with _migrating(empty_site):
        process = subprocess.Popen(
            [sys.executable, "manage.py", "migrate_locked"],
            cwd=ROOT,
            env=empty_site.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        said = [process.stdout.readline().strip() for _ in range(2)]
    rest, _ = process.communicate(timeout=120)
    assert said == [
        "Bringing the schema up to date",
        "Bringing the schema up to date: another process does it, and is waited for",
    ]
    applying, *_, applied = rest.strip().splitlines()
    assert re.fullmatch(r"Bringing the schema up to date: applying \d+ migrations", applying)
    assert applied.startswith("Applied ")


@contextlib.contextmanager
def _migrating(site: Site) -> Iterator[None]:
    """As another process that has just begun."""
    if connection.vendor == "postgresql":
        with site.rows(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [schema._ADVISORY_LOCK])
            yield
            cursor.execute("SELECT pg_advisory_unlock(%s)", [schema._ADVISORY_LOCK])
    else:
        with (site.home / "run" / "migrate.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


@pytest.mark.parametrize("process", ["web", "inference", "training", "worker", "data", "beat"])
def test_nothing_serves_on_a_stale_schema(empty_site: Site, process: str) -> None:
    command = {
        "web": processes.web(host="127.0.0.1", port=empty_site.port),
        "inference": processes.inference(),
        "training": processes.training(),
        "worker": processes.worker(),
        "data": processes.data(),
        "beat": processes.beat(empty_site.home),
    }[process].command
    done = subprocess.run(
        command, cwd=ROOT, env=empty_site.environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert "run `python manage.py migrate_locked`" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_nothing_serves_on_the_schema_of_a_newer_version(empty_site: Site) -> None:
    empty_site.manage("migrate_locked")
    with empty_site.rows(), connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO django_migrations (app, name, applied) VALUES ('chat', '0999_later', '2030-01-01')"
        )
    commands = {
        "web": processes.web(host="127.0.0.1", port=empty_site.port).command,
        "inference": processes.inference().command,
        "migrate_locked": (sys.executable, "manage.py", "migrate_locked"),
        "backup": (sys.executable, "manage.py", "backup"),
        "doctor": (sys.executable, "manage.py", "doctor"),
    }
    for name, command in commands.items():
        done = subprocess.run(
            command, cwd=ROOT, env=empty_site.environment, capture_output=True, text=True, timeout=120
        )
        said = done.stdout + done.stderr
        assert done.returncode != 0, name
        assert "of a newer Flywheel: it has the migration chat.0999_later" in said, (name, said)
        assert "Upgrade Flywheel, or restore a backup" in said
        assert "Traceback" not in said
