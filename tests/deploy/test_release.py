"""An upgrade of a bare machine: what README.md says there, run for real, as far as that goes without systemd."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.deploy.test_guide import GUIDE
from tests.deploy.test_systemd_units import PROCESSES
from tests.live_site import fetch
from tests.migrated import migrated
from tests.services import ROOT, Service, Valkey, minimal_environment, wait_until
from webapp.ops.broker import free_port

pytestmark = [pytest.mark.faults, pytest.mark.one_database, pytest.mark.timeout(600)]
CODE = (
    "webapp",
    "inference",
    "training",
    "deploy",
    "manage.py",
    "pyproject.toml",
    "constraints.txt",
    ".gitignore",
)
SIGN = "<p>Another release</p>"
# Of whom commits are is of no interest, and this machine may not say.
GIT = ("git", "-c", "user.name=A", "-c", "user.email=a@example.org")


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    """The repository that an operator installs from."""
    folder = tmp_path / "upstream"
    folder.mkdir()
    for name in CODE:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "secrets")
            )
        else:
            shutil.copy(ROOT / name, folder)
    run(folder, *GIT, "init", "--quiet")
    commit(folder)
    return folder


@pytest.fixture
def machine(upstream: Path, tmp_path: Path) -> Path:
    """What is /opt/flywheel there, with its first release."""
    folder = tmp_path / "flywheel"
    run(tmp_path, "git", "clone", "--quiet", str(upstream), str(folder))
    run(folder, "sh", "-ec", re.findall(r"^    (deploy/release .*)$", GUIDE, re.MULTILINE)[0])
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "state"


def environment() -> dict[str, str]:
    """That of units. Packages are those of the tests: pip finds that all it was asked for is there."""
    own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PIP_NO_INDEX": "1"}
    return minimal_environment() | own | {"PYTHONPATH": sysconfig.get_paths()["purelib"]}


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def commit(folder: Path) -> None:
    run(folder, "git", "add", "--all")
    run(folder, *GIT, "commit", "--quiet", "--message", "A release")


@contextlib.contextmanager
def web_process(machine: Path, home: Path, broker: Valkey) -> Iterator[tuple[Service, str]]:
    """As its unit starts it; where it answers."""
    unit, port = PROCESSES["web"]["Service"], str(free_port())
    command = unit["ExecStart"].replace("%i", port).replace("/opt/flywheel", str(machine)).split()
    folder = unit["WorkingDirectory"].replace("/opt/flywheel", str(machine))
    database = f"sqlite:///{home}/db.sqlite3"
    settings = environment() | {"FLYWHEEL_HOME": str(home), "DATABASE_URL": database, "REDIS_URL": broker.url}
    service = Service("web", ("env", "-C", folder, *command), settings, home / f"{port}.log").start()
    url = f"http://127.0.0.1:{port}"

    def serves() -> bool:
        assert service.alive, service.log()
        with contextlib.suppress(httpx.TransportError):
            return fetch(f"{url}/healthz").status_code == 200
        return False

    try:
        wait_until(serves, "the web process to serve")
        yield service, url
    finally:
        service.kill()


def test_a_process_goes_on_with_its_own_release_until_it_is_started_again(
    upstream: Path, machine: Path, home: Path, broker: Valkey
) -> None:
    home.mkdir()
    first = (machine / "current").resolve()
    assert first.parent == machine / "releases"
    migrated(
        f"sqlite:///{home}/db.sqlite3",
        lambda: run(first, "env", f"FLYWHEEL_HOME={home}", ".venv/bin/python", "manage.py", "migrate_locked"),
    )
    with web_process(machine, home, broker) as (old, url):
        base = upstream / "webapp" / "templates" / "base_plain.html"
        base.write_text(base.read_text().replace("</body>", f"{SIGN}</body>"))
        commit(upstream)
        upgrade = re.findall(r"^    (git pull|deploy/release .*)$", GUIDE, re.MULTILINE)
        assert upgrade[-2:] == ["git pull", "deploy/release worker"]
        run(machine, "sh", "-ec", "\n".join(upgrade[-2:]))
        second = (machine / "current").resolve()
        assert second not in (first, machine)
        # It reads the page's templates only now, and would what it imports, or starts, later.
        page = httpx.get(f"{url}/setup/", follow_redirects=True).text
        assert "</body>" in page
        assert SIGN not in page
        assert psutil.Process(old.pid).cmdline()[0] == str(first / ".venv" / "bin" / "python")
    with web_process(machine, home, broker) as (new, url):
        assert SIGN in httpx.get(f"{url}/setup/", follow_redirects=True).text
        assert psutil.Process(new.pid).cmdline()[0] == str(second / ".venv" / "bin" / "python")
    # Back again: nothing is made a second time.
    made = (first / ".venv" / "complete").stat().st_mtime_ns
    run(machine, "git", "checkout", "--quiet", first.name.removesuffix("-worker"))
    run(machine, "deploy/release", "worker")
    assert (machine / "current").resolve() == first
    assert (first / ".venv" / "complete").stat().st_mtime_ns == made
    assert run(machine, "git", "status", "--porcelain") == ""
