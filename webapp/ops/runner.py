"""`make run`: brings a whole site up on this machine, tells how it goes, and takes it down without leftovers.

In order: one runner per $FLYWHEEL_HOME, the schema, a model, the processes, /readyz. Knows nothing of what the
processes do.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from django.conf import settings
from django.db import DatabaseError, OperationalError, connection

from inference import catalog
from webapp.core.tether import tether
from webapp.ops import broker, health, processes, schema, start, start_checks, supervision
from webapp.ops.doctor import broker as broker_check
from webapp.ops.doctor import database, machine
from webapp.ops.progress import Progress

# A database or broker of somebody else's may start at the same time as we do.
PATIENCE_SECONDS = 60
READY_PATIENCE_SECONDS = 180
STOP_SECONDS = 40
# So many ends of one process in so many seconds are a loop that nobody should have to discover in a log.
CRASHES, CRASH_SECONDS = 3, 60
TAIL_LINES = 15


class CannotRun(Exception):
    """The site cannot be brought up; the message is a sentence."""


class Stopped(BaseException):
    """Somebody asked us to stop. Not an Exception, so that nothing on the way takes it for a failure."""


class Runner:
    """Runs in the main thread of its own process."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.home: Path = settings.FLYWHEEL_HOME
        self.url = settings.SITE_URL
        self._supervisor: supervision.Supervisor | None = None
        self._events: queue.SimpleQueue[supervision.Event | None] = queue.SimpleQueue()
        self._crashes: dict[str, list[float]] = {}
        self._reported: set[str] = set()
        self._stopping = False

    def run(self) -> None:
        """Returns after an orderly stop. Raises CannotRun."""
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, self._on_signal)
        # What people write ends up in the database, the broker's file and uploads: nobody else on this machine
        # reads those. Every process we start inherits this.
        os.umask(0o077)
        try:
            with self._only_runner() as lock:
                self._refuse(machine.disk)
                self._check_port()
                self._prepare()
                self._start(lock)
                self._wait_until_ready()
                self._watch()
        except Stopped:
            self.progress.line("Stopping.")
        finally:
            self._stopping = True
            self._take_down()
        self.progress.line("Stopped.")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._stopping:
            self._stopping = True
            raise Stopped
        # Asked twice: whoever asks does not want to wait.
        if number == signal.SIGINT:
            supervision.end_descendants(patience=0)

    # --- Before anything runs ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _only_runner(self) -> Any:
        try:
            for folder in ("run", "logs", "broker", "mail", "static"):
                (self.home / folder).mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = (self.home / "run" / "up.lock").open("a+")
        except OSError as error:
            raise CannotRun(
                f"{self.home} cannot be written ({error.strerror}): set FLYWHEEL_HOME to a folder you own."
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                who = lock.read().strip()
                raise CannotRun(
                    f"Flywheel is already running in {self.home}{f' ({who})' if who else ''}: "
                    "stop it first, or set another FLYWHEEL_HOME and PORT."
                ) from None
            lock.truncate(0)
            lock.write(f"process {os.getpid()}, {self.url}\n")
            lock.flush()
            # The supervisor inherits the lock: it is free again when the last of us is gone, not before.
            yield lock.fileno()

    def _check_port(self) -> None:
        if not broker.is_free(settings.PORT, settings.HOST):
            raise CannotRun(
                f"Port {settings.PORT} on {settings.HOST} is taken by another program: stop that, or choose another "
                f"port, such as PORT={settings.PORT + 1 if settings.PORT < 65535 else 8000}."
            )

    def _prepare(self) -> None:
        self.progress.line(f"Flywheel keeps its state in {self.home}")
        with self.progress.step("Preparing the database") as now:
            self._migrate(now)
        if settings.REDIS_GIVEN:
            with self.progress.step("Waiting for the broker at REDIS_URL"):
                self._wait_for_broker("REDIS_URL names a broker that does not answer")
        self._get_model()

    def _refuse(self, check: start_checks.Check) -> None:
        for refusal in start_checks.refusals([check]):
            raise CannotRun(refusal)

    def _migrate(self, says: Callable[[str], None]) -> None:
        self._refuse(database.check)
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                schema.migrate(self.home / "run" / "migrate.lock", says)
                return
            except schema.SchemaIsNewer as error:
                raise CannotRun(str(error)) from error
            except DatabaseError as error:
                # Waiting helps where a server is starting, and nowhere else.
                if (
                    not isinstance(error, OperationalError)
                    or connection.vendor == "sqlite"
                    or time.monotonic() > end
                ):
                    raise CannotRun(f"The database cannot be used: {str(error).strip()}") from error
                time.sleep(1)
            finally:
                connection.close()

    def _get_model(self) -> None:
        from inference.models import ServedModel

        if ServedModel.objects.exists():
            connection.close()
            return
        connection.close()
        with self.progress.step(f"Getting the model {catalog.DEMO.name}"):
            child = subprocess.Popen(
                [*tether(), sys.executable, "manage.py", "models", "pull", catalog.DEMO.name],
                cwd=settings.ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                # Stopped by us, like everything else, and not by the terminal.
                start_new_session=True,
            )
            assert child.stdout is not None
            for line in child.stdout:
                if line.strip():
                    self.progress.line(f"    {line.rstrip()}")
            if child.wait():
                self.progress.line(
                    f"  The model could not be fetched: the site starts without one. Try again with "
                    f"`python manage.py models pull {catalog.DEMO.name}`."
                )

    # --- Up -------------------------------------------------------------------------------------------------

    def _start(self, lock: int) -> None:
        embedded = None
        if not settings.REDIS_GIVEN:
            command = broker.prepare(self.home / "broker")
            # Settings were read before there was a port.
            settings.REDIS_URL = broker.url(self.home / "broker")
            embedded = processes.Process(supervision.BROKER, command, stop_seconds=10)
        text = supervision.configuration(self.home, settings.ROOT, [*start.site().values()], embedded)
        (self.home / "supervisord.conf").write_text(text)
        start.raise_open_files()
        self._supervisor = supervision.Supervisor(self.home, keep_open=[lock])
        threading.Thread(target=self._listen, args=[self._supervisor], name="events", daemon=True).start()

    def _listen(self, supervisor: supervision.Supervisor) -> None:
        for event in supervisor.events():
            self._events.put(event)
        self._events.put(None)

    def _wait_until_ready(self) -> None:
        reason = "starting"
        with self.progress.step("Starting the processes", lambda: reason):
            if not settings.REDIS_GIVEN:
                self._wait_for_broker("The broker does not start", self._handle_events)
            end = time.monotonic() + READY_PATIENCE_SECONDS
            while True:
                self._handle_events()
                failing = self._failing_checks()
                if failing == []:
                    break
                reason = (
                    failing[0]["message"] or failing[0]["code"] if failing else "the web process is starting"
                )
                broken = bool(failing) and all(check["code"] == "model_broken" for check in failing or [])
                if broken or time.monotonic() > end:
                    break
                time.sleep(0.1)
        if failing == []:
            self._announce(f"Flywheel is ready at {self.url}")
        else:
            self._announce(f"Flywheel is up at {self.url} but cannot answer yet: {reason}")
            self.progress.line("`python manage.py doctor` says what to do.")
        self.progress.line(f"Logs are in {self.home / 'logs'}. Press Ctrl-C to stop.")

    def _failing_checks(self) -> list[dict[str, Any]] | None:
        """What /readyz finds wrong, nothing when ready; None where the web process does not answer."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.HOST, settings.HOST)  # noqa: S104
        request = urllib.request.Request(f"http://{host}:{settings.PORT}/readyz")
        try:
            try:
                with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
                    body = json.load(answer)
            except urllib.error.HTTPError as error:
                body = json.load(error)
            return [{"name": name, **check} for name, check in body["checks"].items() if not check["ok"]]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _wait_for_broker(self, trouble: str, meanwhile: Any = None) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            if meanwhile:
                meanwhile()
            self._refuse(broker_check.check)
            answered = health.broker()
            if answered.ok:
                return
            if time.monotonic() > end:
                raise CannotRun(f"{trouble}. {answered.message}")
            time.sleep(0.05)

    def _announce(self, sentence: str) -> None:
        from webapp.accounts import setup_code
        from webapp.accounts.models import User

        self.progress.line("")
        self.progress.line(sentence)
        try:
            if not User.objects.exists():
                self.progress.line(
                    f"Open it on this machine to create the owner, or anywhere with the set-up code "
                    f"{setup_code.setup_code()}"
                )
        finally:
            connection.close()

    # --- While it runs --------------------------------------------------------------------------------------

    def _watch(self) -> NoReturn:
        while True:
            self._handle(self._events.get())

    def _handle_events(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._handle(self._events.get_nowait())

    def _handle(self, event: supervision.Event | None) -> None:
        if event is None:
            errors = (self.home / "logs" / "supervisord.err").read_text(errors="replace").strip()
            raise CannotRun(f"The supervisor ended unexpectedly. {errors}".strip())
        if event.kind == "gave_up":
            raise CannotRun(f"The {event.name} process does not stay up: see {self._log(event.name)}.")
        if event.kind == "crashed":
            self._crashed(event)

    def _crashed(self, event: supervision.Event) -> None:
        now = time.monotonic()
        times = [*(t for t in self._crashes.get(event.name, []) if now - t < CRASH_SECONDS), now]
        self._crashes[event.name] = times
        if len(times) < CRASHES:
            self.progress.line(f"  The {event.name} process ended ({event.detail}) and is started again.")
        elif len(times) == CRASHES:
            tail = self._log(event.name).read_text(errors="replace").splitlines()[-TAIL_LINES:]
            self.progress.line(f"  The {event.name} process ends again and again. Its last words:")
            for line in tail:
                self.progress.line(f"    {line}")
            sentence = f"The {event.name} process does not stay up: see {self._log(event.name)}."
            if event.name in ("web", supervision.BROKER):
                raise CannotRun(sentence)
            self.progress.line(f"  {sentence} The rest of the site goes on, and it is tried again.")

    def _log(self, name: str) -> Path:
        return self.home / "logs" / f"{name}.log"

    def _take_down(self) -> None:
        if self._supervisor is not None:
            self._supervisor.stop()
            with self.progress.step("Waiting for the processes to finish"):
                self._supervisor.finish(STOP_SECONDS + settings.STOP_GRACE_SECONDS)
        else:
            supervision.end_descendants()
