"""`manage.py doctor`: finds what is wrong, says what to do, and works when the site does not."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import LazySettings
from django.core.management import call_command
from django.utils import timezone

from inference import serving
from inference.models import ServedModel, Worker
from tests.services import ROOT, Valkey, minimal_environment
from tests.webapp.ops.other_processes import publish
from training import confinement
from webapp.core.public_addresses import Allowed
from webapp.ops.doctor import configuration, machine, units
from webapp.ops.doctor.finding import Level
from webapp.ops.status import read_status


def doctor() -> tuple[str, int]:
    """What it says, and its exit status."""
    said = io.StringIO()
    try:
        call_command("doctor", stdout=said)
    except SystemExit as end:
        return said.getvalue(), int(str(end.code))
    return said.getvalue(), 0


def gguf(path: Path, architecture: str, *, tensors: int = 0) -> Path:
    """The beginning of a GGUF of that architecture, as far as its metadata."""
    key, value = b"general.architecture", architecture.encode()
    header = b"GGUF" + struct.pack("<IQQ", 3, tensors, 1)
    pair = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(value)) + value
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + pair)
    return path


@pytest.fixture
def served(db: None, settings: LazySettings, tmp_path: Path) -> Callable[[str], ServedModel]:
    settings.MODELS_DIR = tmp_path

    def serve(path: str) -> ServedModel:
        return ServedModel.objects.create(
            name="a-model",
            path=path,
            digest="0" * 64,
            architecture="llama",
            context_length=2048,
            parameters=135_000_000,
            size_bytes=1000,
            is_default=True,
        )

    return serve


def test_a_missing_model_file_is_named(served: Callable[[str], ServedModel]) -> None:
    served("gone.gguf")
    said, status = doctor()
    assert status == 1
    assert "problem  models: a-model: gone.gguf: is not there" in said


def test_a_truncated_model_file_is_named(served: Callable[[str], ServedModel], tmp_path: Path) -> None:
    whole = gguf(tmp_path / "half.gguf", "llama", tensors=3)
    whole.write_bytes(whole.read_bytes()[:-3])
    served("half.gguf")
    said, status = doctor()
    assert status == 1
    assert "problem  models: a-model: half.gguf: " in said


def test_a_model_of_an_unknown_architecture_is_named(
    served: Callable[[str], ServedModel], tmp_path: Path
) -> None:
    gguf(tmp_path / "odd.gguf", "perceptron")
    served("odd.gguf")
    said, status = doctor()
    assert status == 1
    assert "problem  models: a-model: odd.gguf: " in said
    assert "perceptron" in said


def test_no_model_at_all_says_how_to_get_one(db: None) -> None:
    said, status = doctor()
    assert status == 1
    assert "models pull smollm2-135m-instruct" in said


def test_a_broker_that_may_throw_tasks_away_is_a_problem(db: None, broker: Valkey) -> None:
    with broker.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            said, status = doctor()
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert status == 1
    assert "maxmemory-policy is allkeys-lru" in said


def test_a_clock_that_is_not_the_brokers_is_pointed_out(
    db: None, broker: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = time.time
    monkeypatch.setattr("webapp.ops.doctor.clock.time.time", lambda: right() - 90)
    said, _ = doctor()
    assert re.search(r"warning  broker: This machine's clock is (89|90) s behind the broker's\.", said), said
    assert "timedatectl set-ntp true" in said


def test_the_broker_of_this_site_is_well(db: None, broker: Valkey) -> None:
    said, _ = doctor()
    assert "ok       broker: The broker answers." in said
    assert "append-only" not in said


def test_a_kind_of_process_that_is_missing_is_a_problem(
    db: None, broker: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("web", "training", "worker", "data"):
        publish(kind, monkeypatch)
    expires = timezone.now() + timedelta(seconds=60)
    Worker.objects.create(hostname="h", pid=7, state="ready", lease_expires_at=expires)
    said, status = doctor()
    assert status == 1
    assert "problem  processes: No process of the kind “Clock” is running" in said
    assert said.count(" is running") == 1
    publish("beat", monkeypatch)
    assert "processes:" not in doctor()[0]
    publish("beat", monkeypatch, host="gpu2")
    assert "warning  processes: More than one clock runs" in doctor()[0]


def test_a_site_that_is_not_started_is_one_finding(db: None, broker: Valkey) -> None:
    said, _ = doctor()
    assert "problem  processes: No process of the site is running: nothing is answered." in said
    assert said.count("is running") == 1


def test_a_worker_that_cannot_load_its_model_is_a_problem_with_its_reason(db: None) -> None:
    expires = timezone.now() + timedelta(seconds=10)
    Worker.objects.create(
        hostname="h", pid=7, state="broken", error="x.gguf: is cut off.", lease_expires_at=expires
    )
    said, status = doctor()
    assert status == 1
    assert "problem  workers: Worker 7 on h cannot load its model: x.gguf: is cut off." in said


def test_a_worker_that_has_not_seen_the_first_model_yet_is_waited_for(
    served: Callable[[str], ServedModel],
) -> None:
    """As when doctor is asked right after `models pull` on a new site."""
    expires = timezone.now() + timedelta(seconds=10)
    Worker.objects.create(
        hostname="h", pid=7, state="broken", error=serving.NO_MODEL, lease_expires_at=expires
    )
    assert "problem  workers: Worker 7 on h cannot load its model: No model is installed yet." in doctor()[0]
    assert read_status().worker_errors == [serving.NO_MODEL]
    served("gone.gguf")
    said, _ = doctor()
    assert "problem  workers:" not in said
    assert "warning  workers: Worker 7 on h has not yet taken up the model that was just installed.\n" in said
    assert "Ask again in a few seconds." in said
    assert read_status().worker_errors == []


def test_it_says_where_mail_goes_without_a_server(db: None, settings: LazySettings) -> None:
    settings.EMAIL_URL = None
    said, _ = doctor()
    assert f"mail goes to files in {settings.FLYWHEEL_HOME / 'mail'}" in said


def test_it_works_with_the_database_and_the_broker_down(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "doctor"],
        cwd=ROOT,
        env={
            **minimal_environment(),
            "FLYWHEEL_HOME": str(tmp_path),
            "DATABASE_URL": "postgres://u:hunter2@127.0.0.1:1/none",
            "REDIS_URL": "redis://127.0.0.1:1/0",
        },
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 1
    assert "problem  database: The database does not answer" in done.stdout
    assert "problem  broker: The broker does not answer" in done.stdout
    assert "ok       memory" in done.stdout
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("database", "said"),
    [
        (
            "sqlite:////nowhere/at/all.sqlite3",
            "The database cannot be used: unable to open database file. Set ",
        ),
        ("sqlite:///{home}/new.sqlite3", "migrations are missing. Run: python manage.py migrate_locked"),
    ],
)
def test_a_command_that_cannot_use_the_database_says_why_and_what_to_do(
    tmp_path: Path, database: str, said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "setupcode"],
        cwd=ROOT,
        env={
            **minimal_environment(),
            "FLYWHEEL_HOME": str(tmp_path),
            "DATABASE_URL": database.format(home=tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("flywheel: ")
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_what_a_command_makes_is_its_owners_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = subprocess.run(
        [sys.executable, "manage.py", "doctor"],
        cwd=ROOT,
        env={**minimal_environment(), "FLYWHEEL_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=90,
        umask=0o022,
    )
    made = {path.relative_to(home).as_posix(): path.stat().st_mode for path in (home, *home.rglob("*"))}
    assert {".", "secret_key", "db.sqlite3", "broker"} <= made.keys()
    assert [name for name, mode in made.items() if mode & 0o077] == []
    assert "can be read by other users" not in done.stdout


def test_a_gpu_that_is_asked_for_and_not_there_is_pointed_out(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert machine.gpu().level is Level.OK
    settings.INFERENCE_DEVICE = "cuda"
    assert machine.gpu().level is Level.WARNING
    assert "loads no model" in machine.gpu().sentence


def test_a_gpu_that_is_only_not_seen_from_a_container_is_no_finding(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As `manage` has none, whose image is that of CPUs, beside workers that have one."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(machine, "DRIVER", tmp_path / "version")
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86")
    settings.INFERENCE_DEVICE = "cuda"
    assert machine.gpu().level is Level.OK


def test_a_kernel_that_cannot_keep_files_from_what_trains_is_pointed_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(confinement, "is_possible", lambda: True)
    assert list(machine.landlock()) == []
    monkeypatch.setattr(confinement, "is_possible", lambda: False)
    assert [finding.level for finding in machine.landlock()] == [Level.WARNING]


def test_units_that_kill_before_the_grace_is_over_are_pointed_out(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(
        "#!/bin/sh\n"
        "printf 'Id=flywheel-web@8001.service\\nTimeoutStopUSec=40s\\n\\n'\n"
        "printf 'Id=flywheel-inference@1.service\\nTimeoutStopUSec=2min 30s\\n\\n'\n"
        "printf 'Id=flywheel-inference@2.service\\nTimeoutStopUSec=infinity\\n'\n"
    )
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    settings.STOP_GRACE_SECONDS = 25
    assert list(units.check()) == []
    settings.STOP_GRACE_SECONDS = 120
    (finding,) = units.check()
    assert finding.level is Level.WARNING
    assert "flywheel-web@8001.service needs 125 s to end, and systemd kills it after 40." in finding.sentence
    assert (
        "TimeoutStopSec=130 or more in /etc/systemd/system/flywheel-web@.service.d/grace.conf"
        in finding.advice
    )
    monkeypatch.setenv("PATH", "")
    assert list(units.check()) == []


def status() -> str:
    said = io.StringIO()
    with pytest.raises(SystemExit):  # nothing of the site runs
        call_command("status", stdout=said)
    return said.getvalue()


@pytest.mark.parametrize(
    ("size", "free", "is_short"), [(100, 9, True), (100, 11, False), (1000, 21, False), (10, 1.9, True)]
)
def test_a_disk_is_judged_as_the_status_page_does(
    db: None, broker: Valkey, monkeypatch: pytest.MonkeyPatch, size: int, free: float, is_short: bool
) -> None:
    there = os.statvfs("/")
    block = 4096

    def statvfs(path: object) -> os.statvfs_result:
        blocks = (block, block, int(size * 1e9 / block), int(free * 1e9 / block), int(free * 1e9 / block))
        return os.statvfs_result((*blocks, *there[5:]))

    monkeypatch.setattr(os, "statvfs", statvfs)
    publish("web", monkeypatch)
    assert ("are free on gpu1" in status()) is is_short
    assert ("warning  disk: " in doctor()[0]) is is_short


def test_a_broker_that_is_nearly_full_is_pointed_out_as_on_the_status_page(db: None, broker: Valkey) -> None:
    with broker.client() as client:
        for _ in range(600):  # in pieces, since what it reads them into counts as well
            client.append("ballast", bytes(100_000))
        try:
            for share, is_short in ((0.87, True), (0.73, False)):
                client.config_set("maxmemory", int(client.info("memory")["used_memory"] / share))
                assert ("The broker uses " in status()) is is_short
                assert ("warning  broker: The broker has used " in doctor()[0]) is is_short
        finally:
            client.config_set("maxmemory", 0)
            client.delete("ballast")


def test_a_misspelt_variable_is_pointed_out() -> None:
    found = list(configuration.unknown_variables({"INFERENCE_LEASE_SECOND": "5", "PATH": "/bin"}))
    assert [f.level for f in found] == [Level.WARNING]
    assert found[0].advice == "Did you mean INFERENCE_LEASE_SECONDS?"


@pytest.mark.parametrize(
    ("host", "site", "allowed", "levels"),
    [
        ("127.0.0.1", "http://localhost:8000", ["localhost"], []),
        ("127.0.0.1", "https://chat.example.org", ["chat.example.org"], []),
        ("127.0.0.1", "https://chat.example.org", [".example.org"], []),
        ("127.0.0.1", "https://chat.example.org", ["localhost"], [Level.PROBLEM]),
        ("0.0.0.0", "http://localhost:8000", ["localhost", "127.0.0.1", "[::1]"], [Level.WARNING]),
        ("0.0.0.0", "http://localhost:8000", ["localhost", "192.168.1.5"], []),
        ("127.0.0.1", "http://localhost:8000", ["localhost", "[::1]", "chat.example.org"], [Level.WARNING]),
        ("0.0.0.0", "http://chat.example.org", ["chat.example.org"], [Level.WARNING]),
        ("127.0.0.1", "http://localhost:8000", ["*"], [Level.WARNING]),
    ],
)
def test_hosts_that_do_not_fit_together_are_found(
    settings: LazySettings, host: str, site: str, allowed: list[str], levels: list[Level]
) -> None:
    settings.HOST, settings.SITE_URL, settings.ALLOWED_HOSTS = host, site, allowed
    assert [finding.level for finding in configuration.hosts()] == levels


def test_what_would_believe_or_reach_too_much_is_pointed_out(settings: LazySettings) -> None:
    assert list(configuration.proxies({"FORWARDED_ALLOW_IPS": "10.0.0.1"})) == []
    found = [*configuration.proxies({"FORWARDED_ALLOW_IPS": "*"})]
    settings.OUTBOUND_ALLOW = Allowed.parse(["10.0.0.0/8"], variable="OUTBOUND_ALLOW")
    assert list(configuration.outbound()) == []
    settings.OUTBOUND_ALLOW = Allowed.parse(["0.0.0.0/0"], variable="OUTBOUND_ALLOW")
    found += configuration.outbound()
    settings.METRICS_TOKEN = "short"
    found += configuration.secrets()
    assert list(configuration.open_broker()) == []
    settings.REDIS_URL = "redis://:hunter2@broker.internal/0"
    assert list(configuration.open_broker()) == []
    settings.REDIS_URL = "redis://broker.internal/0"
    found += configuration.open_broker()
    assert [finding.level for finding in found] == [Level.WARNING] * 4
    assert all(finding.advice for finding in found)


def test_a_folder_for_uploads_that_is_too_small_is_pointed_out(settings: LazySettings) -> None:
    assert list(machine.temporary_files()) == []
    settings.API_MAX_UPLOAD_MB = 2**40
    assert "set TMPDIR to a larger folder" in next(machine.temporary_files()).advice


def test_a_secret_that_others_can_read_is_a_problem(settings: LazySettings, tmp_path: Path) -> None:
    settings.FLYWHEEL_HOME = tmp_path
    secret = tmp_path / "secret_key"
    secret.write_text("x" * 50)
    secret.chmod(0o644)
    assert [finding.level for finding in configuration.secrets()] == [Level.PROBLEM]
    secret.chmod(0o600)
    assert list(configuration.secrets()) == []
