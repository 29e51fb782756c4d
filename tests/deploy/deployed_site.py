"""A whole site as deploy/compose.yaml has it, without containers: its commands, environment, secrets and proxy.

    site = DeployedSite(server).start()     # returns when it can answer
    site.restart("web-a")                   # SIGTERM, and the same command again; the exit status
    site.stop("inference-1"); site.start_service("inference-1")

Services are named as in compose.yaml; those that run more than once end in a number. What differs from containers is
in one place, "What differs": ports of this machine instead of hosts, folders of the test instead of volumes.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil
import redis

from inference.catalog import DEMO
from tests.demo_model import demo_model
from tests.deploy.compose_file import DEPLOY, compose_file
from tests.deploy.dockerfile import environment_of, instructions_of
from tests.deploy.nginx import nginx_binary, write_configuration
from tests.live_site import LiveSite, fetch
from tests.postgres import create_database
from tests.services import SCRIPTED, Service, minimal_environment, wait_until
from webapp.ops.broker import free_port, server_binary

# Inference workers.
REPLICAS = 2


class DeployedSite(LiveSite):
    """The database server is one of the test run's."""

    def __init__(
        self, server: str, *, engine: str = SCRIPTED, environment: Mapping[str, str] | None = None
    ) -> None:
        """`server`: URL of a PostgreSQL database, beside which the site gets its own. `environment`: lines of .env."""
        self.home = Path(tempfile.mkdtemp(prefix="fwdeployed"))
        self.logs, self.state = self.home / "logs", self.home / "state"
        for folder in (self.logs, self.state):
            folder.mkdir()
        self.database_url = create_database(server)
        self.broker_port, self.http_port, self.https_port = free_port(), free_port(), free_port()
        self.web_ports = {"web-a": free_port(), "web-b": free_port()}
        self.settings = {
            "SITE_URL": self.base_url,
            "COMPOSE_PROFILES": "cpu",
            "REPLICAS": str(REPLICAS),
            "INFERENCE_ENGINE": engine,
            # It would keep a core busy for a minute after every start.
            "INFERENCE_COMPILE": "false",
            # A dead worker is noticed soon, so that tests of recovery are short.
            "INFERENCE_LEASE_SECONDS": "2",
            **(environment or {}),
        }
        self.compose = compose_file(self.settings)
        self.redis_url = self._make_secrets()
        self.tls = ssl.create_default_context(cafile=str(self._here("/run/secrets/certificate")))
        self.environment = self._environment("manage")
        self.migrate = self._service("migrate")
        # The database is the test run's, and `manage` runs when it is asked to.
        others = {"migrate", "database"}
        self._named = {
            each: self._service(each, name)
            for name, service in self.compose["services"].items()
            if name not in others and "cpu" in service.get("profiles", ["cpu"])
            for each in _replicas(name, service)
        }

    # --- What differs from containers -----------------------------------------------------------------------

    def _make_secrets(self) -> str:
        """With the script that an operator runs. Then those that name other hosts name this one; the broker's URL."""
        shutil.copy(DEPLOY / "make-secrets", self.home)
        subprocess.run([self.home / "make-secrets", "localhost"], check=True, capture_output=True)
        secrets = self.home / "secrets"
        (secrets / "database_url").write_text(self.database_url)
        url = (secrets / "redis_url").read_text().replace("@redis:6379", f"@127.0.0.1:{self.broker_port}")
        (secrets / "redis_url").write_text(url)
        return url

    def _here(self, text: str) -> str:
        """Paths of containers as paths of this test's folder."""
        files = {name: self.home / secret["file"] for name, secret in self.compose["secrets"].items()}
        text = re.sub(r"/run/secrets/([\w.]+)", lambda found: str(files[found[1]]), text)
        return text.replace("/var/lib/flywheel", str(self.state))

    def _environment(self, each: str, name: str = "") -> dict[str, str]:
        """The image's, .env's and the service's own, the last one counting."""
        service = self.compose["services"][name or each]
        own = {key: str(value) for key, value in service.get("environment", {}).items()}
        image = environment_of(service["build"]["target"]) | self.settings if "build" in service else {}
        here = {
            "HOST": "127.0.0.1",
            "PORT": str(self.web_ports.get(each, 8000)),
            "FORWARDED_ALLOW_IPS": "127.0.0.1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(DEPLOY.parent),
            "FLYWHEEL_PULSE": str(self.home / f"{each}.pulse"),
        }
        given = {key: self._here(value) for key, value in {**image, **own}.items()}
        return minimal_environment() | given | {key: here[key] for key in here.keys() & given.keys()}

    def _service(self, each: str, name: str = "") -> Service:
        environment = self._environment(each, name)
        command = [
            self._here(str(word)) for word in self.compose["services"][name or each].get("command", [])
        ]
        if each == "proxy":
            command = self._proxy(environment)
        elif each == "redis":
            folder = self.home / "broker"
            folder.mkdir()
            command[0], command[command.index("/data")] = server_binary(), str(folder)
            command += ["--port", str(self.broker_port), "--bind", "127.0.0.1"]
        return Service(each, tuple(command), environment, self.logs / f"{each}.log")

    def _proxy(self, environment: Mapping[str, str]) -> list[str]:
        """What nginx's image does at its start, and its command."""
        web = re.sub(r"resolver [^;]*;|\bresolve\b", "", environment["WEB"])
        for each, port in self.web_ports.items():
            web = web.replace(f"{each}:8000", f"127.0.0.1:{port}")
        here = {
            "WEB": web,
            "HTTP_PORT": f"127.0.0.1:{self.http_port}",
            "HTTPS_PORT": f"127.0.0.1:{self.https_port}",
            "ACME_ROOT": str(self.home / "acme"),
        }
        configuration = write_configuration(self.home, {**environment, **here})
        return [nginx_binary() or "nginx", "-e", "stderr", "-c", str(configuration)]

    # --- Processes ------------------------------------------------------------------------------------------

    @property
    def services(self) -> list[Service]:  # type: ignore[override]
        return [*self._named.values()]

    def start(self) -> DeployedSite:
        """All of it, in the order compose.yaml asks for; returns when the site can answer."""
        self.start_service("redis")
        wait_until(self._broker_answers, "the broker to answer")
        assert self.migrate.start().wait(120) == 0, self.migrate.log()
        if self.settings["INFERENCE_ENGINE"] == SCRIPTED:
            self.add_scripted_model()
        else:
            demo_model(self.state)
            self.manage("models", "pull", DEMO.name)
        for name in self._named:
            if name != "redis":
                self.start_service(name)
        self.wait_ready()
        return self

    def service(self, name: str) -> Service:
        return self._named[name]

    def start_service(self, name: str) -> Service:
        return self._named[name].start()

    def stop(self, name: str, seconds: float = 60.0) -> int:
        """SIGTERM, as stopping a container begins. The exit status; -9 where it took longer."""
        return self._named[name].stop(seconds)

    def restart(self, name: str) -> int:
        """Stops it and starts it again; its exit status. A web process is waited for, as Compose does."""
        status = self.stop(name)
        self.start_service(name)
        if name in self.web_ports:
            wait_until(lambda: self.serves(name), f"{name} to serve", 60, every=0.1)
        return status

    def end(self) -> None:
        """Nothing of it is left."""
        for service in self.services:
            service.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def wait_ready(self, seconds: float = 240.0) -> None:
        """Until each web process serves, each inference worker has its model, and the proxy says that all is well."""

        def ready() -> bool:
            for service in self.services:
                assert service.alive, f"{service.name} ended:\n{service.log()}"
            if not all(map(self.serves, self.web_ports)) or self.workers_ready() < REPLICAS:
                return False
            with self.client() as client:
                return client.get("/readyz").status_code == 200

        wait_until(ready, "the site to be ready", seconds, every=0.1)

    def serves(self, name: str) -> bool:
        """Whether this web process does, asked without the proxy."""
        assert self._named[name].alive, f"{name} ended:\n{self._named[name].log()}"
        with contextlib.suppress(httpx.TransportError):
            return fetch(f"http://127.0.0.1:{self.web_ports[name]}/healthz").status_code == 200
        return False

    def health(self, name: str) -> int:
        """The exit status of its health check: compose.yaml's, or that of its image."""
        service = self.compose["services"][name.rstrip("-0123456789")]
        test = service["healthcheck"].get("test")
        if test is None:
            test = ["CMD", *instructions_of(service["build"]["target"], "HEALTHCHECK")[-1].command]
        kind, *command = test if test[0] != "CMD-SHELL" else ["CMD", "/bin/sh", "-c", test[1]]
        assert kind == "CMD", test
        port = self.web_ports.get(name, 8000)
        here = [word.replace("127.0.0.1:8000", f"127.0.0.1:{port}") for word in command]
        environment = self._named[name].environment
        return subprocess.run(here, env=environment, capture_output=True, timeout=30).returncode

    def connections(self, name: str) -> int:
        """How many this web process holds; the proxy keeps none open that nobody needs."""
        port = self.web_ports[name]
        found = psutil.Process(self._named[name].pid).net_connections("tcp")
        return sum(each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED for each in found)

    def _broker_answers(self) -> bool:
        with (
            contextlib.suppress(redis.exceptions.ConnectionError),
            redis.Redis.from_url(self.redis_url) as client,
        ):
            return bool(client.ping())
        return False

    @property
    def base_url(self) -> str:
        return f"https://localhost:{self.https_port}"


def _replicas(name: str, service: Mapping[str, Any]) -> list[str]:
    count = int(service.get("deploy", {}).get("replicas", 1))
    return [name] if count == 1 else [f"{name}-{number + 1}" for number in range(count)]
