"""The base consumer: who may open a socket, what ends it, and what it makes of bad frames."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.auth import AuthMiddlewareStack
from channels_redis.pubsub import RedisPubSubLoopLayer
from django.conf import settings
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone

from tests.webapp.websocket import Websocket
from webapp.accounts import consumers, services, sockets
from webapp.accounts.consumers import AuthenticatedConsumer
from webapp.accounts.models import Membership, User, Workspace
from webapp.core.errors import NotFound

pytestmark = pytest.mark.django_db(transaction=True)


class Echo(AuthenticatedConsumer):
    """The smallest real subclass: answers "say", refuses "see", breaks on "break"."""

    async def connected(self) -> None:
        await self.send_frame(
            {"type": "hello", "user": str(self.user.pk), "workspace": str(self.workspace_id)}
        )

    def work(self, frame: dict[str, Any]) -> Any:
        if frame["type"] == "say":
            return frame.get("text")
        if frame["type"] == "see":
            raise NotFound("That conversation")
        if frame["type"] == "break":
            raise ZeroDivisionError
        return super().work(frame)

    async def answer(self, frame: dict[str, Any], done: Any) -> None:
        await self.send_frame({"type": "said", "text": done})


@pytest.fixture
def client_of_bob(workspace: Workspace, bob: User) -> Client:
    client = Client()
    client.force_login(bob)
    return client


def socket(client: Client | None = None) -> Websocket:
    return Websocket(AuthMiddlewareStack(Echo.as_asgi()), "/ws/", client)


@pytest.fixture
async def bobs_socket(client_of_bob: Client) -> AsyncIterator[Websocket]:
    opened = socket(client_of_bob)
    await opened.connect()
    assert (await opened.receive_frame())["type"] == "hello"
    yield opened
    await opened.disconnect()


async def expect_logged_out(opened: Websocket) -> None:
    assert await opened.receive_frame() == {"type": "closing", "reason": "logged_out"}
    assert await opened.receive_close() == 4401


async def test_a_stranger_is_accepted_only_to_be_told_4401() -> None:
    opened = socket()
    await opened.connect()
    await expect_logged_out(opened)


async def test_a_member_gets_their_workspace_and_answers(
    bobs_socket: Websocket, workspace: Workspace
) -> None:
    assert await bobs_socket.ask({"type": "say", "text": "héé 你好"}) == {"type": "said", "text": "héé 你好"}


async def test_a_person_in_no_workspace_is_closed_out(charlie: User) -> None:
    client = Client()
    await sync_to_async(client.force_login)(charlie)
    opened = socket(client)
    await opened.connect()
    await expect_logged_out(opened)


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", "null", '"x"', "{}", '{"type": 3}', '{"type": "no_such_command"}', "[" * 100_000,
        '{"type": "say", "text": "\\ud800"}', '{"type": "say", "n": ' + "9" * 5000 + "}", "not json",
    ],
)  # fmt: skip
async def test_nonsense_is_answered_with_a_sentence_and_the_socket_lives(
    bobs_socket: Websocket, text: str
) -> None:
    answer = await bobs_socket.ask(text)
    assert (answer["type"], answer["code"]) == ("error", "bad_frame")
    assert answer["message"].endswith(".")
    assert (await bobs_socket.ask({"type": "say", "text": "still here"}))["text"] == "still here"


async def test_a_binary_frame_is_refused_and_the_socket_lives(bobs_socket: Websocket) -> None:
    await bobs_socket.send_bytes(b"\x00\xff")
    assert (await bobs_socket.receive_frame())["code"] == "bad_frame"
    assert (await bobs_socket.ask({"type": "say", "text": "still here"}))["text"] == "still here"


@pytest.mark.parametrize("letter", ["a", "你"])
async def test_an_oversized_frame_is_refused_and_the_socket_lives(
    bobs_socket: Websocket, letter: str
) -> None:
    count = 1_200_001 // len(letter.encode())
    answer = await bobs_socket.ask(json.dumps({"type": "say", "text": letter * count}, ensure_ascii=False))
    assert answer["code"] == "frame_too_long"
    megabyte = await bobs_socket.ask({"type": "say", "text": "a" * 1_000_000})
    assert megabyte["text"] == "a" * 1_000_000


async def test_a_refusal_carries_the_ids_the_page_sent(bobs_socket: Websocket) -> None:
    answer = await bobs_socket.ask({"type": "see", "client_id": "c1", "ref": "r1"})
    assert answer == {
        "type": "error", "code": "not_found", "client_id": "c1", "ref": "r1",
        "message": "That conversation does not exist, or is not yours to see.",
    }  # fmt: skip


async def test_a_bug_in_a_command_is_a_sentence_not_a_dead_socket(bobs_socket: Websocket) -> None:
    assert (await bobs_socket.ask({"type": "break"}))["code"] == "internal"
    assert (await bobs_socket.ask({"type": "say", "text": "on"}))["text"] == "on"


async def test_a_hundred_frames_at_once_are_fine_and_the_rest_is_told_once(
    bobs_socket: Websocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = consumers.monotonic()
    monkeypatch.setattr(consumers, "monotonic", lambda: now)
    for n in range(300):
        await bobs_socket.send_frame({"type": "say", "text": str(n)})
    answers = []
    while not answers or answers[-1]["type"] != "error":
        answers.append(await bobs_socket.receive_frame())
    assert [a.get("text") for a in answers[:-1]] == [str(n) for n in range(100)]
    assert answers[-1]["code"] == "too_many_frames"
    assert await bobs_socket.receive_nothing(0.2)


async def test_a_thousand_frames_at_once_close_the_socket_with_4429(client_of_bob: Client) -> None:
    opened = socket(client_of_bob)
    await opened.connect()
    for n in range(1500):
        await opened.send_text(json.dumps({"type": "say", "text": str(n)}))
    while (message := await opened.receive_output(5))["type"] == "websocket.send":
        pass
    assert message["code"] == 4429


async def test_logging_out_closes_the_socket(bobs_socket: Websocket, client_of_bob: Client) -> None:
    await sync_to_async(client_of_bob.post)("/accounts/logout/")
    await expect_logged_out(bobs_socket)


async def test_a_session_that_vanished_silently_ends_the_socket_with_the_next_command(
    bobs_socket: Websocket, client_of_bob: Client
) -> None:
    await sync_to_async(client_of_bob.session.delete)(
        client_of_bob.cookies[settings.SESSION_COOKIE_NAME].value
    )
    await bobs_socket.send_frame({"type": "say"})
    await expect_logged_out(bobs_socket)


@pytest.mark.parametrize("change", [{"is_active": False}, {"password": "!"}])
async def test_a_deactivated_person_or_a_new_password_ends_the_socket_with_the_next_command(
    bobs_socket: Websocket, bob: User, change: dict[str, Any]
) -> None:
    await User.objects.filter(pk=bob.pk).aupdate(**change)
    await bobs_socket.send_frame({"type": "say"})
    await expect_logged_out(bobs_socket)


async def test_a_lost_membership_ends_the_socket_with_the_next_command(
    bobs_socket: Websocket, bob: User, workspace: Workspace
) -> None:
    await Membership.objects.filter(user=bob, workspace=workspace).adelete()
    await bobs_socket.send_frame({"type": "say"})
    await expect_logged_out(bobs_socket)


async def test_only_sockets_of_the_lost_workspace_are_closed(
    bobs_socket: Websocket, client_of_bob: Client, bob: User, elsewhere: Workspace
) -> None:
    await Membership.objects.acreate(workspace=elsewhere, user=bob)
    other_page = {"workspace": str(elsewhere.pk), "next": "/settings/"}
    await sync_to_async(client_of_bob.post)("/workspaces/switch/", other_page)
    other = socket(client_of_bob)
    await other.connect()
    assert (await other.receive_frame())["workspace"] == str(elsewhere.pk)
    await sync_to_async(sockets.close_member)(bob.pk, elsewhere.pk)
    await expect_logged_out(other)
    # The same message reached this one's queue before that, so it was handled before the question below.
    assert (await bobs_socket.ask({"type": "say", "text": "here"}))["text"] == "here"


async def test_removing_a_member_closes_their_sockets(
    bobs_socket: Websocket, alice: User, bob: User, workspace: Workspace
) -> None:
    await sync_to_async(services.remove_member)(actor=alice, workspace_id=workspace.pk, user_id=bob.pk)
    await expect_logged_out(bobs_socket)


async def test_a_new_password_closes_every_socket(bobs_socket: Websocket, client_of_bob: Client) -> None:
    form = {"oldpassword": "correct horse 2", "password1": "another horse 9", "password2": "another horse 9"}
    answer = await sync_to_async(client_of_bob.post)("/accounts/password/change/", form)
    assert answer.status_code == 302
    await expect_logged_out(bobs_socket)


async def test_ending_other_logins_closes_their_sockets(
    bobs_socket: Websocket, client_of_bob: Client, bob: User
) -> None:
    await sync_to_async(client_of_bob.get)("/settings/")
    here = Client()
    await sync_to_async(here.force_login)(bob)
    await sync_to_async(here.post)("/accounts/sessions/")
    await expect_logged_out(bobs_socket)


@pytest.mark.parametrize("failure", [ConnectionError("restarted"), RuntimeError("the handler is closed")])
async def test_a_group_message_is_repeated_once_when_the_broker_was_restarted(
    failure: Exception, bobs_socket: Websocket, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, failures = RedisPubSubLoopLayer.group_send, [failure]

    async def fails_first(layer: RedisPubSubLoopLayer, group: str, message: dict[str, Any]) -> None:
        if failures:
            raise failures.pop()
        await send(layer, group, message)

    monkeypatch.setattr(RedisPubSubLoopLayer, "group_send", fails_first)
    await sync_to_async(sockets.close_user)(bob.pk)
    await expect_logged_out(bobs_socket)


async def test_a_login_session_that_has_run_out_ends_the_socket(bobs_socket: Websocket) -> None:
    await Session.objects.aupdate(expire_date=timezone.now())
    await bobs_socket.send_frame({"type": "say", "text": "still here?"})
    await expect_logged_out(bobs_socket)
