"""While PostgreSQL is away, whoever asks how the site is hears it soon: nobody waits as long as the pool does."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import OperationalError
from django.test import Client

from tests.services import ROOT, Valkey, minimal_environment
from webapp.core import metrics
from webapp.ops import figures
from webapp.ops.doctor import database

ASKED = """
import time
import django
django.setup()
from django.test import Client
began = time.monotonic()
for path in ("/metrics", "/readyz"):
    print(Client().get(path, headers={"Host": "localhost"}).content.decode())
print("seconds", time.monotonic() - began)
"""


@pytest.fixture
def deaf() -> Iterator[int]:
    """The port of a server that takes connections and says nothing, as one behind a broken network."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def run(home: Path, broker: Valkey, port: int, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={
            **minimal_environment(),
            "DJANGO_SETTINGS_MODULE": "webapp.settings",
            "FLYWHEEL_HOME": str(home),
            "DATABASE_URL": f"postgres://u:hunter2@127.0.0.1:{port}/none",
            "REDIS_URL": broker.url,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_metrics_and_readiness_say_so_within_a_scrape(broker: Valkey, tmp_path: Path, deaf: int) -> None:
    done = run(tmp_path, broker, deaf, "-c", ASKED)
    assert "flywheel_database_up 0.0" in done.stdout, done.stderr
    for left_out in ("flywheel_workers", "flywheel_jobs", "flywheel_generations{", "flywheel_schema_pending"):
        assert left_out not in done.stdout
    assert "flywheel_broker_memory_bytes" in done.stdout
    assert '"code": "database_down"' in done.stdout
    # Each looks once and gives up after two seconds. The pool, which goes on trying, was not asked.
    assert float(done.stdout.split()[-1]) < 9
    assert "psycopg.pool" not in done.stderr


def test_the_command_status_says_what_it_hears_and_nothing_else(broker: Valkey, tmp_path: Path) -> None:
    began = time.monotonic()
    done = run(tmp_path, broker, 1, "manage.py", "status")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert "The database does not answer" in line
    assert line.endswith("Start it, or correct DATABASE_URL.")
    assert time.monotonic() - began < 20  # two waits of the pool's
    assert "hunter2" not in done.stderr


def test_a_database_that_goes_away_amid_the_figures_is_waited_for_once(
    client: Client, db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "_database", figures._Database())
    asked = []

    def lost() -> Iterator[None]:
        asked.append("figures")
        raise OperationalError("couldn't get a connection after 10.00 sec")
        yield

    first, second = (metrics._Guarded(figures.of_the_database(lost), lambda: 0.0) for _ in range(2))  # type: ignore[arg-type]
    assert first.collect() == []

    def away() -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr(figures, "look", away)
    assert second.collect() == []
    assert asked == ["figures"]


def test_a_server_without_room_for_another_connection_answers_all_the_same(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that the pool has go on."""

    def full(*_: object) -> None:
        raise OperationalError(
            "connection to server at 127.0.0.1 failed: FATAL:  sorry, too many clients already"
        )

    monkeypatch.setattr("django.db.backends.utils.CursorWrapper.execute", full)
    database.look()
    monkeypatch.undo()


def test_figures_say_that_the_database_answers(
    client: Client, db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "CACHE_SECONDS", -1.0)
    text = client.get("/metrics", headers={"Host": "localhost"}).content.decode()
    assert "flywheel_database_up 1.0" in text
    assert "flywheel_jobs" in text
