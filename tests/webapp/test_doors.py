"""The web process's door for sockets, from outside: who may open one, and how many."""

from __future__ import annotations

import pytest
from django.test import Client
from pytest_django.fixtures import Settings

from tests.webapp.websocket import Websocket
from webapp.accounts import presence
from webapp.accounts.models import User, Workspace
from webapp.asgi import application
from webapp.core.origin import is_own_origin

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:8000", "localhost:8000"),
        ("https://chat.example.org", "chat.example.org"),
        ("https://chat.example.org", "chat.example.org:443"),
        ("http://[::1]:8000", "[::1]:8000"),
        # A proxy that keeps the host for itself: SITE_URL says who we are.
        ("https://site.example.org", "127.0.0.1:8000"),
    ],
)
def test_a_page_of_this_site_may_open_a_socket(settings: Settings, origin: str, host: str) -> None:
    settings.SITE_URL = "https://site.example.org"
    settings.ALLOWED_HOSTS = ["localhost", "chat.example.org", "[::1]"]
    assert is_own_origin(origin, host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://evil.example", "localhost:8000"),
        ("http://localhost:3000", "localhost:8000"),
        ("http://evil.example", "evil.example"),
        ("http://site.example.org", "127.0.0.1:8000"),
        ("https://site.example.org.evil.example", "localhost"),
        ("https://localhost@evil.example", "localhost"),
        ("null", "localhost:8000"),
        ("", "localhost:8000"),
        ("http://[", "localhost"),
        ("http://localhost:99999", "localhost"),
        ("file://localhost", "localhost"),
    ],
)
def test_no_other_page_may_open_a_socket(settings: Settings, origin: str, host: str) -> None:
    settings.SITE_URL = "https://site.example.org"
    settings.ALLOWED_HOSTS = ["localhost", "chat.example.org"]
    assert not is_own_origin(origin, host)


async def test_a_page_of_another_port_is_turned_away_although_its_cookie_is_good(
    workspace: Workspace, alice: User
) -> None:
    client = await _logged_in(alice)
    socket = Websocket(application, "/ws/chat/", client)
    socket.scope["headers"][1] = (b"origin", b"http://localhost:3000")
    await socket.send_input({"type": "websocket.connect"})
    assert (await socket.receive_output(5))["type"] == "websocket.close"


async def test_a_socket_to_nowhere_is_turned_away() -> None:
    socket = Websocket(application, "/ws/nowhere/")
    await socket.send_input({"type": "websocket.connect"})
    assert (await socket.receive_output(5))["type"] == "websocket.close"


async def _logged_in(user: User) -> Client:
    client = Client()
    await client.aforce_login(user)
    return client


async def test_one_person_opens_only_so_many_sockets_and_room_is_made_by_closing_one(
    workspace: Workspace, alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "MAX_SOCKETS", 2)
    client = await _logged_in(alice)
    sockets = [Websocket(application, "/ws/chat/", client) for _ in range(2)]
    for socket in sockets:
        await socket.connect()
        assert (await socket.ask({"type": "ping"}))["type"] == "pong"
    refused = Websocket(application, "/ws/chat/", client)
    await refused.connect()
    assert (await refused.receive_frame())["code"] == "too_many_sockets"
    assert await refused.receive_close() == 4429
    await refused.disconnect()
    other = Websocket(application, "/ws/chat/", await _logged_in(bob))
    await other.connect()
    assert (await other.ask({"type": "ping"}))["type"] == "pong"
    await sockets.pop().disconnect()
    again = Websocket(application, "/ws/chat/", client)
    await again.connect()
    assert (await again.ask({"type": "ping"}))["type"] == "pong"
    for socket in (*sockets, other, again):
        await socket.disconnect()
    assert presence._people == {}


async def test_many_sockets_of_one_person_may_not_talk_faster_than_one(
    workspace: Workspace, alice: User
) -> None:
    client = await _logged_in(alice)
    sockets = [Websocket(application, "/ws/chat/", client) for _ in range(3)]
    for socket in sockets:
        await socket.connect()
    for _ in range(60):
        for socket in sockets:
            await socket.send_text('{"type":"ping"}')
    answers = [await socket.receive_frame() for socket in sockets for _ in range(25)]
    assert {frame["type"] for frame in answers} <= {"pong", "error"}
    warned = []
    for socket in sockets:
        while not await socket.receive_nothing(timeout=0.2):
            warned.append(await socket.receive_frame())
    frames = answers + warned
    assert sum(frame["type"] == "pong" for frame in frames) < 180
    assert any(frame.get("code") == "too_many_frames" for frame in frames)
    for socket in sockets:
        await socket.disconnect()
