"""What no process starts with, in one sentence each: provoked for real, and gone when it is mended."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from django.conf import LazySettings
from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper

from tests.postgres import Cluster, binaries
from tests.services import ROOT, Valkey, minimal_environment
from tests.webapp.ops.certificates import self_signed
from webapp import database as database_settings
from webapp.ops import broker as embedded
from webapp.ops import processes, start_checks
from webapp.ops.doctor import broker, database, machine
from webapp.ops.doctor.finding import Level
from webapp.ops.progress import Progress
from webapp.ops.runner import CannotRun, Runner


def refused(check: start_checks.Check) -> str:
    """The one sentence with which a process would end; "" where it would start."""
    return " ".join(start_checks.refusals([check]))


# --- The broker --------------------------------------------------------------------------------------------------


@pytest.fixture
def evicting(broker: Valkey) -> Iterator[Valkey]:
    with broker.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        yield broker
        client.config_set("maxmemory-policy", "noeviction")


@pytest.mark.parametrize("process", ["web", "worker", "beat"])
def test_no_process_starts_with_a_broker_that_may_throw_tasks_away(
    evicting: Valkey, process: str, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    command = {
        "web": processes.web(host="127.0.0.1", port=embedded.free_port()),
        "worker": processes.worker(),
        "beat": processes.beat(tmp_path),
    }[process].command
    environment = {**minimal_environment(), "FLYWHEEL_HOME": str(tmp_path), "REDIS_URL": evicting.url}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "flywheel: The broker's maxmemory-policy is allkeys-lru" in said
    assert "Set maxmemory-policy noeviction." in said
    assert "Traceback" not in said


def test_make_run_does_not_wait_for_such_a_broker_either(evicting: Valkey) -> None:
    with pytest.raises(CannotRun, match=r"maxmemory-policy is allkeys-lru.*Set maxmemory-policy noeviction"):
        Runner(Progress(print))._wait_for_broker("not reached")


def test_a_broker_with_another_password_is_named_and_the_password_is_not(
    broker: Valkey, settings: LazySettings
) -> None:
    with broker.client() as client:
        client.config_set("requirepass", "the right one")
        try:
            for given in ("hunter2@", ""):
                settings.REDIS_URL = f"redis://:{given}127.0.0.1:{broker.port}/0".replace(":127", "127")
                said = refused(broker_check)
                assert "does not accept the user and password in REDIS_URL" in said
                assert "hunter2" not in said
        finally:
            client.execute_command("CONFIG", "SET", "requirepass", "")


broker_check = broker.check


def test_a_broker_that_is_away_is_waited_for(settings: LazySettings) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    assert refused(broker_check) == ""
    assert [finding.level for finding in broker_check()] == [Level.PROBLEM]


def test_a_broker_without_the_database_of_that_number_is_refused(
    broker: Valkey, settings: LazySettings
) -> None:
    settings.REDIS_URL = f"redis://127.0.0.1:{broker.port}/99"
    assert "no database of the number in REDIS_URL" in refused(broker_check)


def test_a_broker_that_hides_its_settings_is_a_warning(broker: Valkey, settings: LazySettings) -> None:
    with broker.client() as client:
        client.execute_command("ACL", "SETUSER", "shy", "on", ">secret", "~*", "&*", "+@all", "-info")
        settings.REDIS_URL = f"redis://shy:secret@127.0.0.1:{broker.port}/0"
        try:
            found = list(broker_check())
        finally:
            client.execute_command("ACL", "DELUSER", "shy")
    assert [finding.level for finding in found] == [Level.OK, Level.WARNING]
    assert "maxmemory-policy noeviction" in found[1].advice


@pytest.mark.parametrize(("version", "is_refused"), [("5.0.7", True), ("6.0.16", True), ("6.2.0", False)])
def test_a_broker_that_is_too_old_is_refused(version: str, is_refused: bool) -> None:
    assert bool([finding for finding in broker.version(version) if finding.refuses]) is is_refused


@pytest.fixture
def broker_with_tls(broker: Valkey, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """The port of one who speaks TLS for the broker, and his certificate: for localhost, and signed by no authority."""
    certificate, key = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with (
                contextlib.suppress(OSError),
                context.wrap_socket(self.request, server_side=True) as client,
                socket.create_connection(("127.0.0.1", broker.port)) as behind,
            ):
                while True:
                    for source in select.select([client, behind], [], [])[0]:
                        if not (data := source.recv(2**16)):
                            return
                        (behind if source is client else client).sendall(data)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads, block_on_close = True, False

    with Server(("127.0.0.1", 0), Relay) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], certificate
        server.shutdown()


def test_a_broker_whose_certificate_nobody_vouches_for_is_refused(
    broker_with_tls: tuple[int, Path], settings: LazySettings
) -> None:
    port, certificate = broker_with_tls
    settings.REDIS_URL = f"rediss://localhost:{port}/0"
    assert "The broker's TLS certificate cannot be verified" in refused(broker_check)
    settings.REDIS_URL = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}"
    assert "cannot be verified" in refused(broker_check)  # it is for another name
    settings.REDIS_URL = f"rediss://localhost:{port}/0?ssl_ca_certs={certificate}"
    assert refused(broker_check) == ""


# --- The database ------------------------------------------------------------------------------------------------

Connect = Callable[[str], None]


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Has the checks look at the database of another URL."""

    def use(url: str) -> None:
        from django.db.utils import load_backend

        given = {**connection.settings_dict, **database_settings.configuration(url)}
        given["OPTIONS"].pop("pool", None)
        monkeypatch.setattr(
            database,
            "_connection_of_its_own",
            lambda: load_backend(given["ENGINE"]).DatabaseWrapper(given, "default"),
        )

    return use


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed")
    started = Cluster()
    with psycopg.connect(started.url("postgres"), autocommit=True) as own:
        own.execute("CREATE ROLE alice LOGIN PASSWORD 'the right one'")
        own.execute("CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
        hba = Path(str(own.execute("SHOW hba_file").fetchone()[0]))  # type: ignore[index]
        hba.write_text("host all alice 127.0.0.1/32 scram-sha-256\nhost all flywheel 127.0.0.1/32 trust\n")
        certificate, key = self_signed(started.home)
        for file in (certificate, key):
            if os.geteuid() == 0:
                shutil.chown(file, "postgres")
        own.execute(f"ALTER SYSTEM SET ssl_cert_file = '{certificate}'".encode())
        own.execute(f"ALTER SYSTEM SET ssl_key_file = '{key}'".encode())
        own.execute("ALTER SYSTEM SET ssl = on")
        own.execute("SELECT pg_reload_conf()")
    yield started
    started.stop()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("alice:hunter2@127.0.0.1:{port}/postgres", "Correct the user and password in DATABASE_URL."),
        ("alice@127.0.0.1:{port}/postgres", "Give the password in DATABASE_URL"),
        ("flywheel@127.0.0.1:{port}/nowhere", 'database "nowhere" does not exist'),
        ("carol@127.0.0.1:{port}/postgres", "Let this machine in, in the server's pg_hba.conf."),
        ("flywheel@127.0.0.1:{port}/latin", "The database's encoding is LATIN1"),
        (
            "flywheel@127.0.0.1:{port}/latin",
            "Drop it, after a backup where it holds something, and create it anew: ",
        ),
        ("flywheel@127.0.0.1:{port}/latin", 'CREATE DATABASE "latin" OWNER "flywheel" ENCODING'),
        ("flywheel@127.0.0.1:{port}/postgres?sslmode=verify-full", "Name the authority that signed it"),
        (
            "flywheel@127.0.0.1:{port}/postgres?sslmode=verify-full&sslrootcert={home}/server.crt",
            'does not match host name "127.0.0.1"',
        ),
        ("flywheel@127.0.0.1:1/postgres", ""),
        ("flywheel@127.0.0.1:{port}/postgres", ""),
        ("flywheel@localhost:{port}/postgres?sslmode=verify-full&sslrootcert={home}/server.crt", ""),
    ],
)
def test_a_database_that_no_waiting_opens_is_refused(
    cluster: Cluster, configured: Connect, where: str, sentence: str
) -> None:
    configured("postgres://" + where.format(port=cluster.port, home=cluster.home))
    said = refused(database.check)
    assert sentence in said
    assert bool(said) is bool(sentence)
    assert "hunter2" not in said


@pytest.mark.django_db
def test_a_database_older_than_django_supports_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django.db.backends.base.base.RAN_DB_VERSION_CHECK", set())
    monkeypatch.setattr(type(connection.features), "minimum_database_version", (99, 1))
    said = refused(database.check)
    assert said.startswith("The database is too old: ")
    assert "99.1 or later is required" in said


@pytest.mark.django_db
def test_a_file_that_is_no_database_is_refused(configured: Connect, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database" * 100)
    configured(f"sqlite:///{tmp_path}/notes.txt")
    assert "names a file that is something else" in refused(database.check)
    configured(f"sqlite:///{tmp_path}/no/such/folder/db.sqlite3")
    assert "Set FLYWHEEL_HOME or DATABASE_URL to a folder that exists" in refused(database.check)


@pytest.mark.django_db
def test_a_database_somebody_writes_to_is_well(configured: Connect, tmp_path: Path) -> None:
    configured(f"sqlite:///{tmp_path}/db.sqlite3")
    writer: BaseDatabaseWrapper = database._connection_of_its_own()
    try:
        with writer.cursor() as cursor:
            cursor.execute("CREATE TABLE t (a INTEGER)")
            cursor.execute("BEGIN IMMEDIATE")
        assert [finding.level for finding in database.check()] == [Level.OK]
    finally:
        writer.close()


# --- The disk ----------------------------------------------------------------------------------------------------


def test_a_home_that_cannot_be_written_is_refused(settings: LazySettings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    settings.FLYWHEEL_HOME = tmp_path / "file"
    assert refused(machine.disk) == (
        f"{tmp_path}/file cannot be written (File exists). Set FLYWHEEL_HOME to a folder you own."
    )


def test_a_full_disk_is_refused(
    settings: LazySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.FLYWHEEL_HOME = tmp_path / "home"
    monkeypatch.setattr(machine, "FULL_DISK", 1e18)
    assert f"The disk where {tmp_path}/home lies is full" in refused(machine.disk)
    monkeypatch.setattr(machine, "FULL_DISK", 0)
    assert refused(machine.disk) == ""

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", no_room)
    assert refused(machine.disk).endswith("(No space left on device). Free some space.")


# --- Settings that are read before anything else -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"DATABSE_URL": "sqlite:////tmp/x"}, "did you mean DATABASE_URL?"),
        (
            {"SITE_URL": "https://chat.example.org", "ALLOWED_HOSTS": "www.example.org"},
            "add chat.example.org to ALLOWED_HOSTS",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_one_sentence(
    environment: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "doctor"],
        cwd=ROOT,
        env={**minimal_environment(), "FLYWHEEL_HOME": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = (done.stdout + done.stderr).strip()
    assert (done.returncode != 0, len(said.splitlines())) == (True, 1), said
    assert sentence in said
