"""A process that is told to end finishes what it can within its grace, and the rest goes on elsewhere."""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
from collections.abc import Iterator

import httpx
import pytest
import websockets

from tests.chat_client import chat_page, generation_row
from tests.faults.test_recovery import whole
from tests.live_site import fetch
from tests.scripted_engine import text_of
from tests.services import Site, wait_until
from tests.webapp.api.live_clients import http_client, key_of

pytestmark = pytest.mark.faults


def events(response: httpx.Response) -> Iterator[tuple[str, str, str]]:
    """Name, id and data of each."""
    name = place = ""
    for line in response.iter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "id":
            place = value
        elif field == "data":
            yield name, place, value
            name = place = ""


def said(data: str) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in json.loads(data)["choices"])


async def test_a_worker_finishes_what_it_runs_and_claims_nothing_more(live_site: Site) -> None:
    async with chat_page(live_site, live_site.log_in()) as page:
        await asyncio.to_thread(live_site.inference[0].stop)
        leaving = await asyncio.to_thread(live_site.start_inference, {"STOP_GRACE_SECONDS": "60"})
        running = await page.say("Hello tokens=150")
        await page.text_arrives(running)
        assert leaving.process is not None
        leaving.process.terminate()
        # It is not among the workers any more, although it still writes.
        await asyncio.to_thread(wait_until, lambda: live_site.workers_ready() == 0, "the worker to leave")
        waiting = await page.say("Hello tokens=20")
        shown = await page.ends(running)
        row = await generation_row(live_site, shown.generation)
        assert (row.attempt, row.text) == (1, text_of(row.seed, 150))
        assert await asyncio.to_thread(leaving.wait, 60) == 0
        row = await generation_row(live_site, page.replies[waiting].generation)
        assert (row.state, row.attempt) == ("queued", 0)
        await asyncio.to_thread(live_site.start_inference)
        await page.ends(waiting)


async def test_what_does_not_end_within_the_grace_is_continued_by_another_worker(live_site: Site) -> None:
    async with chat_page(live_site, live_site.log_in()) as page:
        await asyncio.to_thread(live_site.inference[0].stop)
        leaving = await asyncio.to_thread(live_site.start_inference, {"STOP_GRACE_SECONDS": "1"})
        reply = await page.say("Hello tokens=150 rate=25")
        await page.text_arrives(reply)
        assert await asyncio.to_thread(leaving.stop, 60) == 0
        await asyncio.to_thread(live_site.start_inference)
        _, row = await whole(live_site, page, reply)
        assert (row.attempt, row.crashes) == (2, 0)


async def test_sockets_are_told_that_the_service_restarts(live_site: Site) -> None:
    headers = live_site.ws_headers(live_site.log_in())
    origin = headers.pop("Origin")
    async with websockets.connect(
        live_site.ws_url, additional_headers=headers, origin=origin, compression=None
    ) as socket:
        await socket.send('{"type": "ping"}')
        await socket.recv()
        stopping = asyncio.ensure_future(asyncio.to_thread(live_site.web.stop))
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        assert await stopping in (0, -15)


def test_a_stream_ends_with_an_event_that_says_so_and_is_read_on_afterwards(live_site: Site) -> None:
    asked = {
        "model": "scripted",
        "messages": [{"role": "user", "content": "tokens=150 rate=25"}],
        "stream": True,
        "seed": 31,
    }
    once = {"Idempotency-Key": str(uuid.uuid4())}
    text, last = "", ""
    with http_client(live_site, key_of(live_site)) as http:
        with http.stream("POST", "/chat/completions", json=asked, headers=once) as response:
            for name, place, data in events(response):
                if name == "error":
                    break
                text, last = text + said(data), place or last
                if len(text) > 20 and live_site.web.alive:
                    assert live_site.web.process is not None
                    live_site.web.process.terminate()
            assert json.loads(data)["error"]["code"] == "server_restarting"
        live_site.web.stop()
        live_site.heal()
        again = {**once, "Last-Event-ID": last}
        with http.stream("POST", "/chat/completions", json=asked, headers=again) as response:
            for _name, _place, data in events(response):
                if data != "[DONE]":
                    text += said(data)
    assert text == text_of(31, 150)


def test_a_stream_is_finished_within_the_grace_while_nobody_new_is_let_in(live_site: Site) -> None:
    live_site.web.stop()
    live_site.web.environment["STOP_GRACE_SECONDS"] = "5"
    try:
        live_site.heal()
        asked = {"model": "scripted", "messages": [{"role": "user", "content": "tokens=60"}], "seed": 32}
        text = ""
        with (
            http_client(live_site, key_of(live_site)) as http,
            http.stream("POST", "/chat/completions", json={**asked, "stream": True}) as response,
        ):
            told = False
            for name, _place, data in events(response):
                assert not name, data
                text += said(data) if data != "[DONE]" else ""
                if len(text) > 20 and not told:
                    told = True
                    assert live_site.web.process is not None
                    live_site.web.process.terminate()
                    wait_until(lambda: refuses(live_site), "new connections to be refused", 5)
        assert text == text_of(32, 60)
        assert live_site.web.stop() in (0, -15)
    finally:
        live_site.web.environment["STOP_GRACE_SECONDS"] = "0"


def test_who_stands_in_the_door_when_it_closes_is_let_in(live_site: Site) -> None:
    key = key_of(live_site)
    body = json.dumps(
        {"model": "scripted", "messages": [{"role": "user", "content": "tokens=5"}], "seed": 33}
    )
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    )
    live_site.web.environment["STOP_GRACE_SECONDS"] = "5"
    try:
        live_site.web.restart()
        live_site.wait_ready()
        # The system accepts it for the process, which hears of both when it goes on.
        live_site.web.freeze()
        with socket.create_connection(("127.0.0.1", live_site.port), timeout=30) as connection:
            connection.sendall(request.encode())
            assert live_site.web.process is not None
            live_site.web.process.terminate()
            live_site.web.thaw()
            answer = b""
            while part := connection.recv(65536):
                answer += part
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        assert live_site.web.stop() in (0, -15)
    finally:
        live_site.web.environment["STOP_GRACE_SECONDS"] = "0"


def test_a_socket_whose_handshake_is_under_way_is_opened_and_told_to_go_elsewhere(live_site: Site) -> None:
    cookies = live_site.ws_headers(live_site.log_in())
    request = (
        f"GET /ws/chat/ HTTP/1.1\r\nHost: 127.0.0.1:{live_site.port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        + "".join(f"{name}: {value}\r\n" for name, value in cookies.items())
        + "\r\n"
    )
    with socket.create_connection(("127.0.0.1", live_site.port), timeout=30) as connection:
        # It cannot be finished before the broker goes on.
        live_site.valkey.freeze()
        try:
            connection.sendall(request.encode())
            assert live_site.web.process is not None
            live_site.web.process.terminate()
            wait_until(lambda: refuses(live_site), "new connections to be refused", 5)
        finally:
            live_site.valkey.thaw()
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 101 "), answer
    assert answer.endswith((1012).to_bytes(2, "big")), answer
    assert live_site.web.stop() in (0, -15)


def refuses(site: Site) -> bool:
    try:
        fetch(f"{site.base_url}/healthz")
    except httpx.ConnectError:
        return True
    except httpx.TransportError:
        return False  # it stood in the door
    return False
