"""A database that hangs up on everybody, as one that is restarted does: nobody has to restart anything after it."""

from __future__ import annotations

import asyncio

import httpx
import psycopg
import pytest
from django.db import connection

from tests.chat_client import chat_page
from tests.services import Site
from tests.webapp.api.live_clients import key_of

pytestmark = pytest.mark.faults


def hang_up(site: Site) -> int:
    """On all who are connected to a site's database; how many they were."""
    if not site.database_url.startswith("postgres"):
        pytest.skip("SQLite is a file, and nobody's server")
    with psycopg.connect(site.database_url, autocommit=True) as server:
        found = server.execute(
            "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone()
    assert found is not None
    return int(found[0])


def ask(site: Site, key: str) -> httpx.Response:
    return httpx.post(
        f"{site.base_url}/v1/chat/completions",
        headers={"Authorization": f"Bearer {key}"},
        json={"model": "scripted", "messages": [{"role": "user", "content": "Hello tokens=3"}]},
        timeout=20,
    )


def failures(site: Site) -> list[str]:
    """Tasks that broke off, of all workers."""
    logs = [service.log() for service in (site.worker, *site.inference)]
    return [line for log in logs for line in log.splitlines() if "raised unexpected" in line]


def test_programs_and_workers_go_on_as_if_nothing_had_been(live_site: Site) -> None:
    key = key_of(live_site)
    for _ in range(10):  # as many threads as there may be have a connection
        assert ask(live_site, key).status_code == 200
    page = live_site.log_in()
    for _ in range(3):
        before = len(failures(live_site))
        assert hang_up(live_site) > 3
        answers = [ask(live_site, key) for _ in range(10)]
        assert [answer.status_code for answer in answers] == [200] * 10, [answer.text for answer in answers]
        assert page.get("/usage/").status_code == 200
        broken_off = failures(live_site)[before:]
        if not broken_off:
            return
    # One that came by the clock may have been at work just then, and is sent again; but not each time.
    pytest.fail(f"tasks break off on connections that are gone: {broken_off}")


def test_programs_and_workers_go_on_while_a_migration_adds_columns(live_site: Site) -> None:
    """They have had statements prepared, which the server refuses where their columns have become others."""
    key, tables = key_of(live_site), ("inference_servedmodel", "inference_generation", "accounts_apikey")

    def change(what: str) -> None:
        with live_site.rows(), connection.cursor() as cursor:
            for table in tables:
                cursor.execute(f"ALTER TABLE {table} {what}")

    assert {ask(live_site, key).status_code for _ in range(20)} == {200}
    change("ADD COLUMN of_a_later_version integer NULL")
    try:
        assert {ask(live_site, key).status_code for _ in range(10)} == {200}
    finally:
        change("DROP COLUMN of_a_later_version")
    assert {ask(live_site, key).status_code for _ in range(10)} == {200}


async def test_a_reply_goes_on_and_the_next_message_is_answered(live_site: Site) -> None:
    http = live_site.log_in()
    async with chat_page(live_site, http) as page:
        reply = await page.say("Hello tokens=60 rate=30")
        await page.text_arrives(reply)
        hang_up(live_site)
        assert (await page.ends(reply)).state == "complete"
        again = await page.say("Hello tokens=5")
        assert (await page.ends(again)).state == "complete"


async def test_what_the_broker_lost_meanwhile_is_sent_again(live_site: Site) -> None:
    """By the tasks that come by the clock."""
    async with chat_page(live_site, live_site.log_in()) as page:
        await asyncio.to_thread(live_site.inference[0].kill)
        reply = await page.say("Hello tokens=5")
        with live_site.valkey.client() as client:
            assert client.delete(*client.keys("celery:generate*")) == 1
        hang_up(live_site)
        await asyncio.to_thread(live_site.start_inference)
        assert (await page.ends(reply)).state == "complete"
