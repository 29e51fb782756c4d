"""The chat's websocket on a live site with a scripted engine: what each command does, for whom, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from inference.models import Generation
from tests.chat_client import ChatPage, chat_page, generation_row
from tests.services import Site
from webapp.accounts.models import Membership, Role, User, Workspace
from webapp.chat.models import Conversation, Message

STRANGER, COLLEAGUE = "charlie@example.org", "bob@example.org"


@pytest.fixture(scope="module")
def log_in_as(_session_site: Site) -> Iterator[Callable[[str], httpx.Client]]:
    """Logs in one of the cast: Alice owns the site's workspace, Bob is in it, Charlie has one of his own."""
    from django.contrib.auth.hashers import PBKDF2PasswordHasher

    with _session_site.rows():
        password = PBKDF2PasswordHasher().encode("correct horse 1", "salt of this test", iterations=1000)
        for email in (COLLEAGUE, STRANGER):
            person, made = User.objects.get_or_create(email=email, defaults={"password": password})
            if made:
                workspace = (
                    User.objects.get(email="alice@example.org").workspaces.get()
                    if email == COLLEAGUE
                    else Workspace.objects.create(name="Other")
                )
                Membership.objects.create(workspace=workspace, user=person, role=Role.MEMBER)
    clients: dict[str, httpx.Client] = {}

    def log_in(email: str) -> httpx.Client:
        if email not in clients:
            clients[email] = _session_site.log_in(email)
        return clients[email]

    yield log_in
    for client in clients.values():
        client.close()


@pytest.fixture
def alice_http(log_in_as: Callable[[str], httpx.Client], live_site: Site) -> httpx.Client:
    return log_in_as("alice@example.org")


async def error_after(page: ChatPage, type_: str, **fields: Any) -> dict[str, Any]:
    """The error that answers a command."""
    before = sum(frame["type"] == "error" for frame in page.frames)
    await page.command(type_, **fields)
    await page.wait(lambda: sum(frame["type"] == "error" for frame in page.frames) > before, 10)
    return [frame for frame in page.frames if frame["type"] == "error"][-1]


def rows_of(site: Site, conversation: str | None) -> list[tuple[int, str, str]]:
    with site.rows():
        found = Message.objects.filter(conversation_id=conversation).order_by("position")
        return list(found.values_list("position", "role", "text"))


async def test_a_conversation_goes_through_many_turns_and_remembers_them(
    live_site: Site, alice_http: httpx.Client
) -> None:
    async with chat_page(live_site, alice_http) as page:
        for turn in ("first tokens=5", "second tokens=5", "third tokens=5"):
            reply = await page.say(turn)
            assert (await page.ends(reply)).state == "complete"
        row = await generation_row(live_site, page.replies[reply].generation)
        said = [message["content"] for message in row.messages if message["role"] == "user"]
        assert said == ["first tokens=5", "second tokens=5", "third tokens=5"]
        assert [message["role"] for message in row.messages] == [
            "user",
            "assistant",
            "user",
            "assistant",
            "user",
        ]


async def test_a_message_that_is_sent_twice_is_stored_once(live_site: Site, alice_http: httpx.Client) -> None:
    async with chat_page(live_site, alice_http) as page:
        client_id = str(uuid.uuid4())
        for _ in range(2):
            await page.command("send", conversation=None, client_id=client_id, text="Once tokens=3")
        await page.wait(lambda: sum(frame.get("client_id") == client_id for frame in page.frames) == 2)
        first, second = (frame for frame in page.frames if frame.get("client_id") == client_id)
        assert (first["conversation"], first["reply"]) == (second["conversation"], second["reply"])
        rows = await asyncio.to_thread(rows_of, live_site, page.conversation)
        assert len(rows) == 2


async def test_a_second_tab_shows_the_same_reply_growing(live_site: Site, alice_http: httpx.Client) -> None:
    async with chat_page(live_site, alice_http) as first, chat_page(live_site, alice_http) as second:
        reply = await first.say("begin tokens=2")
        await first.ends(reply)
        assert first.conversation
        second.conversation = first.conversation
        await second.command("open", conversation=first.conversation, have=[])
        reply = await first.say("go on tokens=60")
        await second.wait(lambda: reply in second.replies)
        shown = [await page.ends(reply) for page in (first, second)]
        row = await generation_row(live_site, shown[0].generation)
        assert all(each.shows(row.text) for each in shown)


async def test_a_page_that_was_away_gets_the_messages_it_missed(
    live_site: Site, alice_http: httpx.Client
) -> None:
    async with chat_page(live_site, alice_http) as page:
        reply = await page.say("seen tokens=2")
        await page.ends(reply)
        missed = await page.say("missed tokens=2")
        await page.ends(missed)
        async with chat_page(live_site, alice_http) as other:
            await other.command("open", conversation=page.conversation, have=[], after=1)
            await other.wait(lambda: missed in other.replies)
            frame = next(frame for frame in other.frames if frame["type"] == "messages")
            assert "missed tokens=2" in frame["html"]
            assert "seen tokens=2" not in frame["html"]


async def test_retry_answers_again_in_every_tab_and_leaves_one_reply(
    live_site: Site, alice_http: httpx.Client
) -> None:
    async with chat_page(live_site, alice_http) as page:
        reply = await page.say("break tokens=50 fail_after=5")
        failed = await page.ends(reply)
        row = await generation_row(live_site, failed.generation)
        assert (failed.state, row.error_code) == ("failed", "engine_error")
        failed.state = ""
        await page.command("retry", message=reply)
        await page.ends(reply)
        assert len(await asyncio.to_thread(rows_of, live_site, page.conversation)) == 2


async def test_only_the_last_reply_that_has_ended_is_retried(
    live_site: Site, alice_http: httpx.Client
) -> None:
    async with chat_page(live_site, alice_http) as page:
        first = await page.say("one tokens=2")
        await page.ends(first)
        second = await page.say("two tokens=500 rate=50")
        for reply in (first, second):
            assert (await error_after(page, "retry", message=reply))["code"] == "not_retryable"
        await page.command("stop", message=second)
        await page.ends(second)


async def test_the_model_names_a_conversation_and_every_tab_hears_of_it(
    live_site: Site, alice_http: httpx.Client
) -> None:
    async with chat_page(live_site, alice_http) as page, chat_page(live_site, alice_http) as other:
        await page.ends(await page.say("A word about say=Quiet_harbours"))
        for tab in (page, other):
            await tab.wait(
                lambda tab=tab: any(
                    frame["type"] == "title"
                    and frame["conversation"] == page.conversation
                    and frame["title"] == "Quiet harbours"
                    for frame in tab.frames
                )
            )


async def test_a_name_the_person_chose_is_kept(live_site: Site, alice_http: httpx.Client) -> None:
    async with chat_page(live_site, alice_http) as page:
        reply = await page.say("long tokens=100 rate=100")
        await page.command("rename", conversation=page.conversation, title="  Mine  alone ")
        await page.wait(lambda: any(frame["type"] == "title" for frame in page.frames))
        await page.ends(reply)

        def title() -> str:
            with live_site.rows():
                assert not Generation.objects.filter(
                    purpose="title", titled_conversation=page.conversation
                ).exists()
                return Conversation.objects.get(id=page.conversation).title

        assert await asyncio.to_thread(title) == "Mine alone"
        assert (await error_after(page, "rename", conversation=page.conversation, title=" "))[
            "code"
        ] == "title_empty"


async def test_deleting_a_conversation_stops_its_reply_and_leaves_nothing(
    live_site: Site, alice_http: httpx.Client
) -> None:
    async with chat_page(live_site, alice_http) as page, chat_page(live_site, alice_http) as other:
        reply = await page.say("long tokens=5000 rate=20")
        await page.text_arrives(reply)
        await page.command("delete", conversation=page.conversation)
        await other.wait(lambda: any(frame["type"] == "deleted" for frame in other.frames))

        def left() -> int:
            with live_site.rows():
                return Generation.objects.filter(id=page.replies[reply].generation).count()

        assert await asyncio.to_thread(left) == 0
        assert await asyncio.to_thread(rows_of, live_site, page.conversation) == []


@pytest.mark.parametrize("who", [COLLEAGUE, STRANGER])
async def test_another_persons_conversation_does_not_exist_for_anyone_else(
    live_site: Site, alice_http: httpx.Client, log_in_as: Callable[[str], httpx.Client], who: str
) -> None:
    async with chat_page(live_site, alice_http) as hers, chat_page(live_site, log_in_as(who)) as theirs:
        reply = await hers.say("secret tokens=400 rate=100")
        conversation = hers.conversation
        attempts: list[tuple[str, dict[str, Any]]] = [
            ("open", {"conversation": conversation, "have": [{"message": reply, "blocks": 0, "attempt": 1}]}),
            ("send", {"conversation": conversation, "client_id": str(uuid.uuid4()), "text": "hello"}),
            ("stop", {"message": reply}),
            ("retry", {"message": reply}),
            ("rename", {"conversation": conversation, "title": "stolen"}),
            ("delete", {"conversation": conversation}),
        ]
        for command, fields in attempts:
            error = await error_after(theirs, command, **fields)
            assert error["code"] == "not_found"
            # The same words as for what is nobody's: nothing can be learned from the answer.
            nobodys = {
                name: str(uuid.uuid4()) if name in ("conversation", "message") else value
                for name, value in fields.items()
            }
            assert await error_after(theirs, command, **nobodys) == {**error, **_client_id(nobodys)}
        assert {frame["type"] for frame in theirs.frames} == {"error"}
        await hers.command("stop", message=reply)
        assert (await hers.ends(reply)).state == "cancelled"
        rows = await asyncio.to_thread(rows_of, live_site, conversation)
        assert [text for _, _, text in rows] == ["secret tokens=400 rate=100", ""]


def _client_id(fields: dict[str, Any]) -> dict[str, Any]:
    return {"client_id": fields["client_id"]} if "client_id" in fields else {}


async def test_losing_the_membership_takes_a_persons_conversations_away(
    live_site: Site, log_in_as: Callable[[str], httpx.Client]
) -> None:
    bobs = log_in_as(COLLEAGUE)
    async with chat_page(live_site, bobs) as page:
        await page.ends(await page.say("mine tokens=2"))
        address = f"/c/{page.conversation}/"
        assert bobs.get(address).status_code == 200

        def move(away: bool) -> None:
            with live_site.rows():
                bob = User.objects.get(email=COLLEAGUE)
                mine = Conversation.objects.get(id=page.conversation).workspace
                if away:
                    Membership.objects.filter(user=bob, workspace=mine).delete()
                else:
                    Membership.objects.create(user=bob, workspace=mine)

        await asyncio.to_thread(move, True)
        try:
            assert bobs.get(address).status_code == 404
            before = len(page.frames)
            await page.command("ping")
            await page.wait(lambda: any(frame["type"] == "closing" for frame in page.frames[before:]))
        finally:
            await asyncio.to_thread(move, False)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"text": ""}, "message_empty"),
        ({"text": " \n\t "}, "message_empty"),
        ({"text": "a" * 1_000_000}, "message_too_long"),
        ({"text": None}, "bad_frame"),
        ({"text": "hello", "client_id": 7}, "bad_frame"),
        ({"text": "hello", "client_id": "not an id"}, "not_found"),
        ({"text": "hello", "conversation": "not an id"}, "not_found"),
        ({"text": "hello", "conversation": ["x"]}, "bad_frame"),
    ],
)
async def test_a_message_that_cannot_be_sent_is_refused_with_a_sentence_and_stores_nothing(
    live_site: Site, alice_http: httpx.Client, fields: dict[str, Any], code: str
) -> None:
    def messages() -> int:
        with live_site.rows():
            return Message.objects.count()

    before = await asyncio.to_thread(messages)
    async with chat_page(live_site, alice_http) as page:
        frame = {"conversation": None, "client_id": str(uuid.uuid4()), **fields}
        error = await error_after(page, "send", **frame)
        assert error["code"] == code
        assert error["message"].endswith(".")
        await page.command("ping")
        await page.wait(lambda: any(frame["type"] == "pong" for frame in page.frames))
    assert await asyncio.to_thread(messages) == before


async def test_a_message_longer_than_the_context_is_refused_and_says_by_how_much(
    live_site: Site, alice_http: httpx.Client
) -> None:
    async with chat_page(live_site, alice_http) as page:
        reply = await page.say("word " * 19_000)
        shown = await page.ends(reply)
        row = await generation_row(live_site, shown.generation)
        assert (shown.state, row.error_code) == ("refused", "prompt_too_long")
        assert any(character.isdigit() for character in row.error_message)
        assert row.error_message in shown.html.replace("&#x27;", "'")


async def test_odd_text_comes_back_as_it_was_written(live_site: Site, alice_http: httpx.Client) -> None:
    odd = "tokens=2 \u202eright to left\u202c \U0001f469\u200d\U0001f680 <b>&amp; '; -- \r\n\x00 end"
    async with chat_page(live_site, alice_http) as page:
        await page.ends(await page.say(odd))
        rows = await asyncio.to_thread(rows_of, live_site, page.conversation)
        assert rows[0][2] == odd.replace("\r\n", "\n").replace("\x00", "\ufffd")


async def test_unknown_and_broken_frames_are_answered_and_the_socket_lives_on(
    live_site: Site, alice_http: httpx.Client
) -> None:
    async with chat_page(live_site, alice_http) as page:
        assert page._socket is not None
        for payload in ("", "{", "[]", '{"type": 1}', '{"type": "erase_everything"}', b"\x00\x01"):
            before = len(page.frames)
            await page._socket.send(payload)
            await page.wait(lambda before=before: len(page.frames) > before)
            assert page.frames[-1]["code"] == "bad_frame"
        await page.command("open", conversation=str(uuid.uuid4()), have="everything")
        await page.wait(lambda: page.frames[-1]["type"] == "error")
        assert page.reconnects == 0


async def test_a_thousand_frames_a_second_end_that_socket_and_trouble_nobody_else(
    live_site: Site, alice_http: httpx.Client
) -> None:
    async with chat_page(live_site, alice_http) as flooding, chat_page(live_site, alice_http) as calm:
        socket = flooding._socket
        assert socket is not None
        for _ in range(3000):
            await socket.send(json.dumps({"type": "ping"}))
            if socket.close_code is not None or flooding.reconnects:
                break
        await flooding.wait(lambda: flooding.reconnects > 0)
        assert socket.close_code == 4429
        reply = await calm.say("hello tokens=3")
        assert (await calm.ends(reply)).state == "complete"
