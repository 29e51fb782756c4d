"""Real processes for tests: Valkey, the web server, workers and beat, started, killed and always reaped.

    site.inference[0].kill()            # kill -9
    site.start_inference()              # another worker
    site.valkey.restart()
    with site.rows(): Generation.objects.get(...)     # the site's own database, through the ORM

The commands are the ones `make run` uses (`webapp.ops.processes`); only their environment differs.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import redis

from inference.catalog import DEMO
from tests.demo_model import demo_model
from tests.live_site import ROOT, LiveSite, fetch
from tests.migrated import migrated
from webapp.ops import broker, processes

SCRIPTED = "tests.scripted_engine.load"
REAL = "inference.worker.load_engine"
_started: list[Service] = []


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 90.0, every: float = 0.02) -> Any:
    """Polls until `condition()` is truthy and returns it. Raises TimeoutError naming `what`.

    The longer it has waited, the seldomer it looks: what is waited for needs the processor, too.
    """
    begun = time.monotonic()
    while True:
        if value := condition():
            return value
        waited = time.monotonic() - begun
        if waited > seconds:
            raise TimeoutError(f"waited {seconds:g} s in vain for: {what}")
        time.sleep(max(every, min(waited / 40, 0.05)))


@atexit.register
def _reap_everything() -> None:
    for service in _started:
        service.kill()


class Service:
    """One real process in a process group of its own, its output kept in a file."""

    def __init__(
        self, name: str, command: tuple[str, ...], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name, self.command, self.environment, self.log_path = name, command, dict(environment), log
        self.process: subprocess.Popen[bytes] | None = None
        _started.append(self)

    def start(self) -> Service:
        assert not self.alive, f"{self.name} already runs"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def signal(self, number: int) -> None:
        """Sends to the process and its children."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """kill -9, and reap."""
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait(10)

    def stop(self, seconds: float = 15.0) -> int:
        """SIGTERM to the process alone, as a supervisor does; kill -9 when it takes too long. The exit status."""
        if self.process is None:
            return 0
        if self.alive:
            self.process.terminate()
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = -9
        self.kill()
        return status

    def wait(self, seconds: float) -> int:
        """For its end by itself; the exit status. Raises subprocess.TimeoutExpired."""
        assert self.process is not None
        return self.process.wait(seconds)

    def freeze(self) -> None:
        """SIGSTOP: alive, and deaf."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def restart(self) -> Service:
        self.stop()
        return self.start()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def __repr__(self) -> str:
        return f"<{self.name} {'alive' if self.alive else 'dead'}>"


class Valkey(Service):
    """A real server with an append-only file, as in production; it keeps its port over restarts."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port or broker.free_port()
        configuration = folder / "valkey.conf"
        configuration.write_text(broker.configuration_text(folder, self.port))
        super().__init__(
            "valkey",
            (broker.server_binary(), str(configuration)),
            minimal_environment(),
            folder / "valkey.log",
        )

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def start(self) -> Valkey:
        super().start()
        wait_until(self.answers, "Valkey to answer", 10, every=0.005)
        return self

    def answers(self) -> bool:
        assert self.alive, f"Valkey ended:\n{self.log()}"
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.exceptions.ConnectionError:
            return False


def minimal_environment() -> dict[str, str]:
    """What any process needs from ours, without a single setting of the site."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": str(ROOT),
    }


class Site(LiveSite):
    """A whole site in a folder of its own. `start` returns when it is ready to answer."""

    def __init__(
        self,
        *,
        engine: str = SCRIPTED,
        database_url: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="fwsite"))
        atexit.register(shutil.rmtree, self.home, ignore_errors=True)
        self.logs = self.home / "logs"
        self.logs.mkdir()
        for folder in ("run", "static"):
            (self.home / folder).mkdir()
        self.port = broker.free_port()
        self.engine = engine
        self.valkey = Valkey(self.home / "broker")
        self.database_url = database_url or f"sqlite:///{self.home}/db.sqlite3"
        self.environment = {
            **minimal_environment(),
            "DJANGO_SETTINGS_MODULE": "webapp.settings",
            "FLYWHEEL_HOME": str(self.home),
            "PORT": str(self.port),
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.valkey.url,
            "INFERENCE_ENGINE": engine,
            # It would keep a core busy for a minute after every start.
            "INFERENCE_COMPILE": "false",
            # A dead worker is noticed soon, so that tests of recovery are short.
            "INFERENCE_LEASE_SECONDS": "2",
            # A process that is told to stop hands over at once, unless a test is about that.
            "STOP_GRACE_SECONDS": "0",
            # Where tests listen for webhooks.
            "OUTBOUND_ALLOW": "127.0.0.1",
            **(environment or {}),
        }
        self.web = self._service(processes.web(host="127.0.0.1", port=self.port))
        self.worker = self._service(processes.worker())
        self.beat = self._service(processes.beat(self.home))
        self.data = self._service(processes.data())  # started by `start_data`: few tests have data
        self.training = self._service(processes.training())  # started by `start_training`
        self.inference: list[Service] = []

    # --- Processes ------------------------------------------------------------------------------------------

    def _service(self, process: processes.Process) -> Service:
        return Service(process.name, process.command, self.environment, self.logs / f"{process.name}.log")

    def start(self, *, inference: int = 1, model: str = "") -> Site:
        """`model`: REAL for the demo model's files; by default what the engine needs."""
        self.valkey.start()
        self.prepare(model)
        self.web.start()
        self.worker.start()
        self.beat.start()
        for _ in range(inference):
            self.start_inference()
        if inference:
            self.wait_ready()
        return self

    def prepare(self, model: str = "") -> Site:
        """The schema and the engine's model: the demo model, or the row a scripted engine needs."""
        self.migrate()
        if (model or self.engine) == REAL:
            demo_model(self.home)
            self.manage("models", "pull", DEMO.name)
        else:
            self.add_scripted_model()
        return self

    def migrate(self) -> None:
        """Its database has the schema afterwards."""
        migrated(self.database_url, lambda: self.manage("migrate_locked"))

    def start_inference(self, environment: Mapping[str, str] | None = None) -> Service:
        """One more inference worker; wait for it with `wait_ready` or `workers_ready`."""
        process = processes.inference(f"inference{len(self.inference) + 1}")
        service = self._service(process)
        service.environment.update(environment or {})
        self.inference.append(service)
        service.start()
        return service

    def start_data(self) -> Service:
        """The worker of datasets."""
        return self.data if self.data.alive else self.data.start()

    def start_training(self) -> Service:
        """The worker of training jobs."""
        return self.training if self.training.alive else self.training.start()

    @property
    def services(self) -> list[Service]:
        asked_for = [service for service in (self.data, self.training) if service.process is not None]
        return [self.valkey, self.web, self.worker, self.beat, *asked_for, *self.inference]

    def heal(self) -> None:
        """Starts again whatever a test killed; one live inference worker and everything else."""
        for service in (self.valkey, self.web, self.worker, self.beat):
            if not service.alive:
                service.start()
        for service in (self.data, self.training):
            if not service.alive:
                service.process = None  # not asked for any more
        self.inference = [service for service in self.inference if service.alive]
        for extra in self.inference[1:]:
            extra.stop()
        self.inference = self.inference[:1] or [self.start_inference()]
        self.wait_ready()

    def stop(self) -> None:
        for service in reversed(self.services):
            service.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def wait_ready(self, seconds: float = 120.0) -> None:
        """Until /readyz says that the site can answer."""

        def ready() -> bool:
            for service in self.services:
                assert service.alive, f"{service.name} ended while the site was starting:\n{service.log()}"
            with contextlib.suppress(httpx.TransportError):
                return fetch(f"{self.base_url}/readyz").status_code == 200
            return False

        wait_until(ready, "the site to be ready", seconds, every=0.1)

    # --- Doors ----------------------------------------------------------------------------------------------

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answers(self) -> bool:
        """Whether its web process does, whoever else is there."""
        with contextlib.suppress(httpx.TransportError):
            return fetch(f"{self.base_url}/healthz").is_success
        return False

    def open_sockets(self) -> int:
        """As the web process counts them."""
        text = fetch(f"{self.base_url}/metrics").text
        return sum(
            int(float(value)) for value in re.findall(r"^flywheel_sockets\{.*\} (\S+)$", text, re.MULTILINE)
        )
