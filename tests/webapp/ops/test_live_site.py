"""The test harness itself: a live site answers, survives its parts being killed, and is itself again afterwards."""

from __future__ import annotations

import pytest
from django.db import connection
from websockets.asyncio.client import connect
from websockets.typing import Origin

from inference.models import Worker
from tests.live_site import fetch
from tests.services import Site, wait_until
from webapp.accounts.models import User

pytestmark = pytest.mark.faults


def test_a_live_site_is_ready_and_its_rows_are_not_the_test_databases(live_site: Site) -> None:
    assert fetch(f"{live_site.base_url}/readyz").json()["status"] == "ok"
    with live_site.rows():
        assert User.objects.filter(email="alice@example.org").exists()


def test_a_person_can_log_in_to_a_live_site(live_site: Site) -> None:
    assert live_site.log_in().get("/").status_code == 200


def test_a_killed_broker_makes_the_site_unready_and_healing_brings_it_back(live_site: Site) -> None:
    live_site.valkey.kill()
    wait_until(lambda: fetch(f"{live_site.base_url}/readyz").status_code == 503, "the site to notice")
    live_site.heal()
    assert fetch(f"{live_site.base_url}/readyz").status_code == 200


def test_a_site_with_the_demo_model_is_ready(model_site: Site) -> None:
    with model_site.rows():
        assert Worker.objects.get(state=Worker.State.READY).model == "smollm2-135m-instruct"


async def test_open_sockets_are_counted(live_site: Site) -> None:
    before = live_site.open_sockets()
    headers = live_site.ws_headers(live_site.log_in())
    origin = Origin(headers.pop("Origin"))
    async with connect(live_site.ws_url, origin=origin, additional_headers=headers):
        assert live_site.open_sockets() == before + 1
    wait_until(lambda: live_site.open_sockets() == before, "the closed socket to be forgotten")


def test_sqlite_is_in_wal_mode(live_site: Site) -> None:
    with live_site.rows(), connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("PRAGMA journal_mode")
            assert cursor.fetchone() == ("wal",)
