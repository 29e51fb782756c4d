"""What protects a site that others reach: HTTPS as browsers see it, secrets on no command line, harmless ids."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.test import Client

from tests.services import ROOT
from webapp.ops import broker, processes


def settings_with(monkeypatch: pytest.MonkeyPatch, **environment: str) -> dict[str, Any]:
    """As the site reads them with these variables."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return runpy.run_path(str(ROOT / "webapp" / "settings.py"))


@pytest.mark.django_db
@pytest.mark.parametrize(("scheme", "is_secure"), [("https", True), ("http", False)])
def test_a_site_with_https_says_so_to_browsers(
    scheme: str, is_secure: bool, monkeypatch: pytest.MonkeyPatch, settings: LazySettings
) -> None:
    read = settings_with(
        monkeypatch, SITE_URL=f"{scheme}://chat.example.org", ALLOWED_HOSTS="chat.example.org"
    )
    for name, value in read.items():
        if name.startswith(("SECURE_", "SESSION_COOKIE_", "CSRF_", "ALLOWED_")):
            setattr(settings, name, value)
    # The proxy speaks HTTPS with the browser and HTTP with us.
    client = Client(HTTP_HOST="chat.example.org", HTTP_X_FORWARDED_PROTO=scheme)
    answer = client.get("/accounts/login/", follow=True)
    assert answer.status_code == 200
    assert ("Strict-Transport-Security" in answer.headers) is is_secure
    cookie = answer.cookies[read["CSRF_COOKIE_NAME"]]
    assert (bool(cookie["secure"]), cookie["samesite"]) == (is_secure, "Lax")
    assert read["SESSION_COOKIE_SECURE"] is is_secure


def test_no_secret_is_on_a_command_line(tmp_path: Path) -> None:
    command = broker.prepare(tmp_path)
    password = (tmp_path / "password").read_text()
    assert password in (tmp_path / "valkey.conf").read_text()
    started = [
        processes.web(host="127.0.0.1", port=8000),
        *(make() for make in (processes.inference, processes.training, processes.worker, processes.data)),
        processes.beat(tmp_path),
    ]
    said = " ".join([*command, *(word for process in started for word in process.command)])
    assert password not in said
    assert "://" not in said  # no address either, which might hold one


@pytest.mark.django_db
@pytest.mark.parametrize("given", ["x\n2026-01-01 forged", "\x1b[2J", "ä", "a" * 129, "a b", ""])
def test_a_request_id_that_would_be_a_line_of_the_log_is_replaced(given: str) -> None:
    answer = Client().get("/accounts/login/", headers={"X-Request-ID": given})
    assert answer.headers["x-request-id"].startswith("req_")
    assert Client().get("/", headers={"X-Request-ID": "mine-1"}).headers["x-request-id"] == "mine-1"
