"""/v1/conversations: a person's own chats, by program. What is said there is on their pages at once."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.test import Client
from django.utils import timezone

from inference.models import Generation, ServedModel
from tests.chat_client import chat_page
from tests.services import Site, wait_until
from tests.webapp.api.conftest import key_client
from tests.webapp.api.live_clients import http_client, key_of, new_key
from webapp.accounts.api_keys import revoke_key
from webapp.accounts.models import ApiKey, Membership, Role, User, Workspace
from webapp.chat.models import Conversation, Message


def conversation_of(
    user: User, workspace: Workspace, model: ServedModel, title: str = "Alice's"
) -> Conversation:
    """With one message and a finished reply."""
    now = timezone.now()
    conversation = Conversation.objects.create(user=user, workspace=workspace, title=title, updated_at=now)
    reply = Generation.objects.create(
        workspace=workspace, model=model, seed=1, deadline=now, sent_at=now, state="complete", text="Hello yourself.",
        finish_reason="stop", prompt_tokens=5, completion_tokens=3,
    )  # fmt: skip
    Message.objects.create(conversation=conversation, position=0, role="user", text="Hello")
    Message.objects.create(conversation=conversation, position=1, role="assistant", generation=reply)
    return conversation


# --- reading and changing ----------------------------------------------------------------------------------------


def test_conversations_are_listed_last_used_first_in_pages(
    alices: Client, alice: User, bob: User, workspace: Workspace, elsewhere: Workspace, model: ServedModel
) -> None:
    made = [conversation_of(alice, workspace, model, f"No. {n}") for n in range(5)]
    conversation_of(bob, workspace, model, "Bob's")
    Membership.objects.create(user=alice, workspace=elsewhere, role=Role.MEMBER)
    conversation_of(alice, elsewhere, model, "Elsewhere")
    seen: list[str] = []
    after, more = "", True
    while more:
        page = alices.get(f"/v1/conversations?limit=2{after}").json()
        assert page["object"] == "list"
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        seen += [found["title"] for found in page["data"]]
        after, more = f"&after={page['last_id']}", page["has_more"]
    assert seen == ["No. 4", "No. 3", "No. 2", "No. 1", "No. 0"]
    oldest = alices.get("/v1/conversations?order=asc&limit=2").json()["data"]
    assert [found["title"] for found in oldest] == ["No. 0", "No. 1"]
    assert alices.get(f"/v1/conversations/{made[0].id}").json() == oldest[0]


def test_a_person_without_conversations_has_an_empty_list(alices: Client) -> None:
    empty = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert alices.get("/v1/conversations").json() == empty


def test_messages_are_listed_in_order_with_what_is_known_of_replies(
    alices: Client, alice: User, workspace: Workspace, model: ServedModel
) -> None:
    conversation = conversation_of(alice, workspace, model)
    path = f"/v1/conversations/{conversation.id}/messages"
    page = alices.get(path).json()
    asked, answered = page["data"]
    assert (asked["role"], asked["content"], asked["status"], asked["model"]) == (
        "user",
        "Hello",
        "completed",
        None,
    )
    assert (answered["role"], answered["content"], answered["model"]) == (
        "assistant",
        "Hello yourself.",
        "demo",
    )
    assert (answered["status"], answered["finish_reason"], answered["error"]) == ("completed", "stop", None)
    assert answered["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    assert alices.get(f"{path}/{answered['id']}").json() == answered
    last = alices.get(f"{path}?order=desc&limit=1").json()
    assert (last["data"], last["has_more"]) == ([answered], True)
    assert alices.get(f"{path}?order=desc&after={answered['id']}").json()["data"] == [asked]


def test_a_conversation_is_renamed_and_deleted(
    alices: Client, alice: User, workspace: Workspace, model: ServedModel
) -> None:
    path = f"/v1/conversations/{conversation_of(alice, workspace, model).id}"
    renamed = alices.post(path, {"title": " Tides \n and moons "}, content_type="application/json").json()
    assert renamed["title"] == "Tides and moons"
    refused = alices.post(path, {"title": "  "}, content_type="application/json")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "title_empty")
    deleted = alices.delete(path).json()
    assert deleted == {"id": renamed["id"], "object": "conversation.deleted", "deleted": True}
    assert alices.get(path).status_code == alices.delete(path).status_code == 404
    assert not Conversation.objects.exists()


ROUTES = [
    ("GET", "", None),
    ("POST", "", {"title": "Mine now"}),
    ("DELETE", "", None),
    ("GET", "/messages", None),
    ("POST", "/messages", {"content": "Let me in"}),
    ("GET", "/messages/{reply}", None),
    ("GET", "/messages/{reply}?stream=true", None),
    ("POST", "/messages/{reply}/stop", {}),
    ("POST", "/messages/{reply}/retry", {}),
]


@pytest.fixture
def others(bob: User, workspace: Workspace, elsewhere: Workspace, charlie: User, alice: User) -> list[Client]:
    """Everybody who is not to see Alice's conversation: Bob of her workspace, Charlie, and her own key of another."""
    Membership.objects.create(user=alice, workspace=elsewhere, role=Role.MEMBER)
    return [
        key_client(bob, workspace, "chat"),
        key_client(charlie, elsewhere),
        key_client(alice, elsewhere, "chat"),
    ]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_for_everybody_else_a_conversation_does_not_exist(
    method: str, path: str, body: Any, others: list[Client], client: Client,
    alice: User, workspace: Workspace, model: ServedModel,
) -> None:  # fmt: skip
    conversation = conversation_of(alice, workspace, model)
    reply = conversation.messages.get(position=1)
    before = (list(Conversation.objects.values()), list(Message.objects.values()))
    address = f"/v1/conversations/{conversation.id}" + path.format(reply=reply.id)
    for other in others:
        answer = other.generic(method, address, json.dumps(body), content_type="application/json")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), other
    assert (
        client.generic(method, address, json.dumps(body), content_type="application/json").status_code == 401
    )
    for nonsense in ("x", "0" * 32, str(uuid.uuid4())):
        address = f"/v1/conversations/{nonsense}" + path.format(reply=nonsense)
        answer = others[0].generic(method, address, json.dumps(body), content_type="application/json")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert (list(Conversation.objects.values()), list(Message.objects.values())) == before


def test_lists_show_nothing_of_anybody_else(
    others: list[Client], alice: User, workspace: Workspace, model: ServedModel
) -> None:
    conversation = conversation_of(alice, workspace, model)
    for other in others:
        assert other.get("/v1/conversations").json()["data"] == []
        refused = other.get(f"/v1/conversations?after={conversation.id}").json()["error"]
        assert (refused["code"], refused["param"]) == ("invalid_value", "after")


def test_a_key_without_the_scope_is_refused(alice: User, workspace: Workspace) -> None:
    answer = key_client(alice, workspace, "files").get("/v1/conversations")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "missing_scope")


def test_what_cannot_be_sent_is_refused_and_nothing_is_stored(alices: Client, model: ServedModel) -> None:
    for body, code, param in (
        ({}, "missing_required_parameter", "content"),
        ({"content": ""}, "message_empty", "content"),
        ({"content": 5}, "invalid_type", "content"),
        ({"content": "x" * 100_001}, "message_too_long", "content"),
        ({"content": "Hi", "model": "gpt-5"}, "model_not_found", "model"),
        ({"content": "Hi", "temperature": 1}, "unsupported_parameter", "temperature"),
    ):
        answer = alices.post("/v1/conversations", body, content_type="application/json")
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == (code, param)
    assert not Conversation.objects.exists()


# --- sending, live -----------------------------------------------------------------------------------------------


@pytest.fixture
def http(live_site: Site) -> httpx.Client:
    return http_client(live_site, key_of(live_site))


def events_of(response: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of a stream: each event's id and data."""
    place = ""
    for line in response.iter_lines():
        if line.startswith("id: "):
            place = line[4:]
        elif line.startswith("data: "):
            yield place, json.loads(line[6:])


def test_a_conversation_is_begun_and_gone_on_with(http: httpx.Client) -> None:
    turn = http.post("/conversations", json={"content": "say=Quiet_harbours", "title": "Harbours"}).json()
    assert turn["object"] == "conversation.turn"
    assert (turn["conversation"]["title"], turn["conversation"]["model"]) == ("Harbours", None)
    assert (turn["message"]["content"], turn["reply"]["content"]) == ("say=Quiet_harbours", "Quiet harbours ")
    assert (turn["reply"]["status"], turn["reply"]["usage"]["completion_tokens"]) == ("completed", 2)
    path = f"/conversations/{turn['conversation']['id']}/messages"
    second = http.post(path, json={"content": "say=And_tides"}).json()
    assert second["reply"]["content"] == "And tides "
    said = [found["content"] for found in http.get(path).json()["data"]]
    assert said == ["say=Quiet_harbours", "Quiet harbours ", "say=And_tides", "And tides "]


def test_a_reply_streams_and_a_lost_stream_goes_on_where_it_was(http: httpx.Client) -> None:
    body = {"content": "tokens=60 rate=60", "stream": True, "model": "scripted"}
    with http.stream("POST", "/conversations", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = events_of(response)
        _place, created = next(events)
        assert (created["type"], created["reply"]["status"]) == ("turn.created", "queued")
        assert created["conversation"]["model"] == "scripted"
        text = ""
        while len(text) < 40:
            place, event = next(events)
            text += event["delta"]
    # The connection is gone; the reply goes on.
    path = f"/conversations/{created['conversation']['id']}/messages/{created['reply']['id']}"
    with http.stream("GET", f"{path}?stream=true", headers={"Last-Event-ID": place}) as response:
        rest = [event for _place, event in events_of(response)]
    assert [event["type"] for event in rest[:-1]] == ["message.delta"] * (len(rest) - 1)
    ended = rest[-1]
    assert (ended["type"], ended["message"]["status"]) == ("message.ended", "completed")
    assert text + "".join(event["delta"] for event in rest[:-1]) == ended["message"]["content"]
    with http.stream("GET", f"{path}?stream=true") as response:
        again = [event for _place, event in events_of(response)]
    assert "".join(event["delta"] for event in again[:-1]) == ended["message"]["content"]
    assert again[-1] == ended
    assert http.get(path).json() == ended["message"]
    wrong = http.get(f"{path}?stream=true", headers={"Last-Event-ID": "yesterday"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "Last-Event-ID")


def test_a_reply_is_read_while_it_grows_stopped_and_tried_again(http: httpx.Client) -> None:
    with http.stream(
        "POST", "/conversations", json={"content": "tokens=2000 rate=50", "stream": True}
    ) as response:
        events = events_of(response)
        _place, created = next(events)
        next(events)
        path = f"/conversations/{created['conversation']['id']}/messages/{created['reply']['id']}"
        growing = http.get(path).json()
        assert (growing["status"], bool(growing["content"]), growing["usage"]) == ("in_progress", True, None)
        stopped = http.post(f"{path}/stop").json()
        *_deltas, (_place, ended) = events
    assert (stopped["status"], stopped["finish_reason"], stopped["error"]) == ("cancelled", None, None)
    assert stopped["content"].startswith(growing["content"])
    assert ended["message"] == stopped == http.post(f"{path}/stop").json()
    refused = http.post(
        f"/conversations/{created['conversation']['id']}/messages/{created['message']['id']}/stop"
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "not_a_reply")
    with http.stream("POST", f"{path}/retry", json={"stream": True}) as response:
        next(events_of(response))
        running = http.post(f"{path}/retry")
        assert (running.status_code, running.json()["error"]["code"]) == (400, "not_retryable")
    http.post(f"{path}/stop")


def test_a_message_that_is_too_long_for_the_model_ends_in_an_error(http: httpx.Client) -> None:
    turn = http.post("/conversations", json={"content": "word " * 9000}).json()
    assert turn["reply"]["status"] == "failed"
    assert turn["reply"]["error"]["code"] == "prompt_too_long"


def test_the_same_idempotency_key_sends_once(http: httpx.Client, live_site: Site) -> None:
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    body = {"content": "say=Once"}
    first = http.post("/conversations", json=body, headers=headers).json()
    again = http.post("/conversations", json=body, headers=headers).json()
    assert (again["message"], again["reply"]) == (first["message"], first["reply"])
    path = f"/conversations/{first['conversation']['id']}/messages"
    for other in (
        http.post("/conversations", json={"content": "say=Other"}, headers=headers),
        http.post(path, json=body, headers=headers),
    ):
        assert (other.status_code, other.json()["error"]["code"]) == (400, "idempotency_key_reused")
    assert len(http.get(path).json()["data"]) == 2


async def test_what_a_program_does_is_seen_live_on_the_persons_pages(
    http: httpx.Client, live_site: Site
) -> None:
    post = sync_to_async(http.post)
    begun = (await post("/conversations", json={"content": "say=First"})).json()
    conversation = begun["conversation"]["id"]
    async with chat_page(live_site, live_site.log_in(), conversation) as page:
        sent = (
            await post(f"/conversations/{conversation}/messages", json={"content": "say=Hello_page"})
        ).json()
        reply = sent["reply"]["id"]
        await page.wait(lambda: reply in page.replies)
        shown = await page.ends(reply)
        assert shown.shows("Hello page ")
        frame = next(frame for frame in page.frames if frame["type"] == "messages")
        assert "say=Hello_page" in frame["html"]
        await post(f"/conversations/{conversation}", json={"title": "Called so"})
        await page.wait(lambda: any(f["type"] == "title" and f["title"] == "Called so" for f in page.frames))
        # What the page says, the program reads; what it stops, ends.
        answer = await page.say("tokens=2000 rate=50")
        await page.text_arrives(answer)
        stopped = (await post(f"/conversations/{conversation}/messages/{answer}/stop")).json()
        assert stopped["status"] == "cancelled"
        assert (await page.ends(answer)).state == "cancelled"
        again = post(f"/conversations/{conversation}/messages/{answer}/retry", json={})
        seen = len(page.frames)
        task = asyncio.ensure_future(again)
        await page.wait(lambda: any(frame.get("base") == 0 for frame in page.frames[seen:]))
        await page.command("stop", message=answer)
        assert (await task).json()["status"] == "cancelled"
        await sync_to_async(http.delete)(f"/conversations/{conversation}")
        await page.wait(lambda: any(f["type"] == "deleted" for f in page.frames))


def test_a_stream_ends_when_its_key_is_revoked(live_site: Site) -> None:
    key = new_key(live_site)
    with http_client(live_site, key).stream(
        "POST", "/conversations", json={"content": "tokens=4000 rate=50", "stream": True}
    ) as response:
        events = events_of(response)
        _place, created = next(events)
        with live_site.rows():
            found = ApiKey.objects.select_related("user").get(prefix=key.rsplit("-", 1)[0][:11])
            revoke_key(key=found, by=found.user)
        *_deltas, (_place, last) = events
    # Whichever comes first: the end of what the key began, or that it holds no more.
    assert last.get("error", {}).get("code") == "invalid_api_key" or last["message"]["status"] == "cancelled"
    with live_site.rows():
        reply = Message.objects.get(id=created["reply"]["id"])
        wait_until(lambda: Generation.objects.get(id=reply.generation_id).is_finished, "the reply to end")
