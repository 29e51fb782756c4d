"""Whose address the site takes a visitor's to be: the connection's, unless a proxy is known to stand in front."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import new_site
from tests.live_site import fetch
from tests.services import Service, Site, wait_until
from webapp.accounts.models import AuditEvent
from webapp.ops import processes


@pytest.fixture
def site() -> Iterator[Site]:
    site = new_site()
    try:
        site.valkey.start()
        site.prepare()
        site.create_owner()
        yield site
    finally:
        site.stop()


@pytest.mark.parametrize(("proxied", "address"), [(False, "127.0.0.1"), (True, "203.0.113.9")])
def test_a_made_up_address_is_believed_only_behind_a_proxy(site: Site, proxied: bool, address: str) -> None:
    command = processes.web(host="127.0.0.1", port=site.port, proxied=proxied).command
    environment = {**site.environment, "LOG_FORMAT": "json"}
    site.web = Service("web", command, environment, site.logs / "web.log")
    site.web.start()
    wait_until(lambda: "answers" if _alive(site) else None, "the site to answer")
    site.log_in()
    with httpx.Client(base_url=site.base_url, headers={"X-Forwarded-For": "203.0.113.9"}) as client:
        client.get("/accounts/login/")
        token = client.cookies[f"flywheel_csrf_{site.port}"]
        form = {"login": "alice@example.org", "password": "wrong", "csrfmiddlewaretoken": token}
        client.post("/accounts/login/", data=form)
    with site.rows():
        assert AuditEvent.objects.get(action="login_failed").ip == address
    lines = [json.loads(line) for line in site.web.log().splitlines() if line.startswith("{")]
    forwarded = [line["ip"] for line in lines if line.get("request") == "POST /accounts/login/"]
    assert forwarded[-1] == address


def _alive(site: Site) -> bool:
    try:
        return fetch(f"{site.base_url}/healthz").status_code == 200
    except httpx.TransportError:
        return False
