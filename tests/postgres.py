"""A throw-away PostgreSQL cluster: made in a temporary folder, reached over loopback, gone with the tests.

PostgreSQL refuses to run as root, so root runs it as the `postgres` user that its package made.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from webapp.ops.broker import free_port


def binaries() -> Path | None:
    """The folder of the newest installed server's programs, or None where no server is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if found:
        return found[-1]
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def create_database(server: str) -> str:
    """A new empty database beside the one that `server`, a URL, names; returns its URL."""
    name = f"site_{os.getpid()}_{time.monotonic_ns()}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    return urlsplit(server)._replace(path=f"/{name}").geturl()


class Cluster:
    """A running server; `url(name)` addresses one of its databases."""

    def __init__(self) -> None:
        folder = binaries()
        if folder is None:
            raise RuntimeError(
                "PostgreSQL is not installed: install the package postgresql, or set TEST_DATABASE_URL."
            )
        self._bin = folder
        self._as: list[str] = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        self.home = Path(tempfile.mkdtemp(prefix="fwpg"))
        if self._as:
            shutil.chown(self.home, "postgres")
        self.port = free_port()
        atexit.register(self.stop)
        self._run(
            "initdb",
            "-D",
            str(self.home / "data"),
            "-U",
            "flywheel",
            "-A",
            "trust",
            "--no-sync",
            "-E",
            "UTF8",
        )
        with (self.home / "data" / "postgresql.conf").open("a") as file:
            file.write(
                f"port = {self.port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{self.home}'\n"
                "fsync = off\nfull_page_writes = off\nsynchronous_commit = off\nmax_connections = 200\n"
            )
        self._run("pg_ctl", "-D", str(self.home / "data"), "-w", "-l", str(self.home / "log"), "start")

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._as, str(self._bin / program), *arguments],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr}")

    def url(self, name: str) -> str:
        return f"postgres://flywheel@127.0.0.1:{self.port}/{name}"

    def stop(self) -> None:
        if self.home.exists():
            if (self.home / "data" / "postmaster.pid").exists():
                self._run("pg_ctl", "-D", str(self.home / "data"), "-m", "immediate", "-w", "stop")
            shutil.rmtree(self.home, ignore_errors=True)
