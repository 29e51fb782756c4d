"""While the broker is away nobody sees an error page: pages open, people log in, and chat says it reconnects."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from websockets.sync.client import connect
from websockets.typing import Origin

from tests.chat_client import chat_page
from tests.services import Site, wait_until

pytestmark = pytest.mark.faults


def test_pages_open_and_people_log_in_while_the_broker_is_away(live_site: Site) -> None:
    live_site.valkey.kill()
    http = live_site.log_in()
    for address in ("/", "/settings/", "/c/list", "/healthz"):
        assert http.get(address).status_code == 200


async def test_a_page_opened_without_a_broker_chats_as_soon_as_it_is_back(live_site: Site) -> None:
    http = live_site.log_in()
    await asyncio.to_thread(live_site.valkey.kill)
    starting = asyncio.ensure_future(asyncio.to_thread(live_site.valkey.start))
    async with chat_page(live_site, http) as page:
        await starting
        reply = await page.say("Hello tokens=5")
        assert (await page.ends(reply)).state == "complete"


def test_a_socket_opened_as_soon_as_the_broker_is_back_is_taken_at_once(live_site: Site) -> None:
    http = live_site.log_in()
    headers = live_site.ws_headers(http)
    origin = Origin(headers.pop("Origin"))
    # With nobody there, the site keeps its connection to the broker and does not hear that it has died.
    with connect(live_site.ws_url, origin=origin, additional_headers=headers):
        pass
    wait_until(lambda: live_site.open_sockets() == 0, "the socket to be forgotten")
    live_site.valkey.kill()
    live_site.valkey.start()
    with connect(live_site.ws_url, origin=origin, additional_headers=headers) as socket:
        socket.send('{"type": "ping"}')
        assert "pong" in str(socket.recv(timeout=10))


def test_a_broker_that_is_restarted_is_no_error_of_those_who_wait_for_it(live_site: Site) -> None:
    """They say that they try again, in a line each time, and go on by themselves."""
    services = (live_site.worker, live_site.inference[0])
    before = [len(service.log()) for service in services]

    def lines() -> list[list[dict[str, Any]]]:
        logs = [service.log()[length:] for service, length in zip(services, before, strict=True)]
        return [[json.loads(line) for line in log.splitlines() if line.startswith("{")] for log in logs]

    def each_says(what: str) -> bool:
        return all(any(what in line["event"] for line in told) for told in lines())

    live_site.valkey.kill()
    wait_until(lambda: each_says("Trying again"), "the workers to notice", every=0.1)
    live_site.valkey.start()
    wait_until(lambda: each_says("Connected to"), "the workers to be back", every=0.1)
    for told in lines():
        assert {line["level"] for line in told if "Trying again" in line["event"]} == {"warning"}
        assert not [line for line in told if "DeprecationWarning" in line["event"]]


async def test_messages_are_taken_one_after_the_other_while_the_broker_is_away(live_site: Site) -> None:
    http = live_site.log_in()
    async with chat_page(live_site, http) as page:
        await asyncio.to_thread(live_site.valkey.kill)
        for _ in range(3):
            reply = await page.say("Hello tokens=5", tries=1)
        await asyncio.to_thread(live_site.valkey.start)
        assert (await page.ends(reply)).state == "complete"


async def test_a_broker_that_hears_and_does_not_answer_holds_nobody_up_for_long(live_site: Site) -> None:
    http = live_site.log_in()
    async with chat_page(live_site, http) as page:
        live_site.valkey.freeze()
        try:
            for _ in range(3):
                reply = await page.say("Hello tokens=5", tries=1)
        finally:
            live_site.valkey.thaw()
        assert (await page.ends(reply)).state == "complete"
