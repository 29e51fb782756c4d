"""What tests do with a site of real processes, however it was started: its pages, its sockets, its rows, its commands.

Knows nothing of how the processes are started.
"""

from __future__ import annotations

import contextlib
import re
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Protocol
from urllib.parse import urlsplit

import httpx
from django.db import connections
from django.db.utils import load_backend

from webapp import database

ROOT = Path(__file__).resolve().parent.parent


def fetch(url: str, seconds: float = 5.0) -> httpx.Response:
    """GET over plain HTTP. (`httpx.get` would read all certificate authorities first, which takes 25 ms a time.)"""
    return httpx.get(url, timeout=seconds, verify=False, trust_env=False)


class _Logged(Protocol):
    name: str

    def log(self) -> str: ...


class LiveSite:
    """Base of what starts one, which says where it is."""

    # pytest-django forbids database access outside marked tests; the test session says here how to ask for it.
    unblocked: ClassVar[Callable[[], contextlib.AbstractContextManager[None]]] = contextlib.nullcontext
    tls: ssl.SSLContext | None = None  # with which clients trust it, where it speaks TLS
    database_url: str
    environment: Mapping[str, str]  # of its commands

    @property
    def base_url(self) -> str:
        raise NotImplementedError

    @property
    def services(self) -> list[_Logged]:
        raise NotImplementedError

    # --- Doors ----------------------------------------------------------------------------------------------

    @property
    def ws_url(self) -> str:
        return f"{self.base_url.replace('http', 'ws', 1)}/ws/chat/"

    def client(self) -> httpx.Client:
        """An HTTP client that trusts it, and follows where it is sent."""
        return httpx.Client(
            base_url=self.base_url,
            follow_redirects=True,
            timeout=30,
            verify=self.tls or False,  # over plain HTTP nobody has to be trusted
            trust_env=False,
        )

    def submit(self, client: httpx.Client, path: str, **fields: str) -> httpx.Response:
        """Fills in the form of a page and sends it, as a browser does."""
        page = client.get(path)
        found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
        assert found, f"no form at {path}: {page.status_code}\n{page.text[:500]}"
        form = {"csrfmiddlewaretoken": found[1], **fields}
        return client.post(path, data=form, headers={"Referer": f"{self.base_url}{path}"})

    def log_in(self, email: str = "alice@example.org", password: str = "correct horse 1") -> httpx.Client:
        """An HTTP client logged in through the page. `ws_headers(client)` opens sockets as the same person."""
        client = self.client()
        answer = self.submit(client, "/accounts/login/", login=email, password=password)
        assert self.session_cookie in client.cookies, f"log-in failed: {answer.status_code}"
        return client

    @property
    def session_cookie(self) -> str:
        return f"flywheel_session_{urlsplit(self.base_url).port}"

    def ws_headers(self, client: httpx.Client) -> dict[str, str]:
        """Headers with which a websocket is opened as the person `client` is logged in as."""
        cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        return {"Cookie": cookies, "Origin": self.base_url}

    # --- Rows and commands ----------------------------------------------------------------------------------

    def create_owner(self, email: str = "alice@example.org", password: str = "correct horse 1") -> None:
        """A person who owns a workspace, as `createowner` leaves them."""
        from django.contrib.auth.hashers import PBKDF2PasswordHasher

        from webapp.accounts.models import Membership, Role, User, Workspace

        with self.rows():
            # The test run's own hasher is one the site rightly refuses.
            hashed = PBKDF2PasswordHasher().encode(password, "salt of this test", iterations=1000)
            person = User.objects.create(email=email, name=email.split("@")[0].title(), password=hashed)
            owned = Workspace.objects.create(name="Acme")
            Membership.objects.create(workspace=owned, user=person, role=Role.OWNER)

    def add_scripted_model(self) -> None:
        """The row a scripted engine needs."""
        from inference.models import ServedModel
        from tests.scripted_engine import CONTEXT_LENGTH, DIGEST

        with self.rows():
            ServedModel.objects.get_or_create(
                name="scripted",
                defaults={
                    "path": "scripted",
                    "digest": DIGEST,
                    "architecture": "scripted",
                    "context_length": CONTEXT_LENGTH,
                    "parameters": 1,
                    "size_bytes": 1,
                    "is_default": True,
                },
            )

    def workers_ready(self) -> int:
        """How many inference workers hold a lease and a model."""
        from inference.models import Worker

        with self.rows():
            return Worker.objects.alive().filter(state=Worker.State.READY).count()

    @contextlib.contextmanager
    def rows(self) -> Iterator[None]:
        """Inside, this thread's ORM reads and writes the site's database instead of the test database."""
        configured = connections.configure_settings({"default": database.configuration(self.database_url)})[
            "default"
        ]
        configured["OPTIONS"].pop("pool", None)
        usual = connections["default"]
        with LiveSite.unblocked():
            own = load_backend(configured["ENGINE"]).DatabaseWrapper(configured, alias="default")
            connections["default"] = own
            try:
                yield
            finally:
                connections["default"] = usual
                own.close()

    def manage(self, *arguments: str) -> str:
        """Runs `manage.py ...` on this site and returns what it printed."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"manage.py {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}"
        return done.stdout

    def log_tails(self, lines: int = 40) -> str:
        tails = ((s.name, "\n".join(s.log().splitlines()[-lines:])) for s in self.services)
        return "\n".join(f"--- {name} ---\n{tail}" for name, tail in tails if tail)
