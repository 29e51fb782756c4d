"""Every command of the chat's socket: asked for what is somebody else's, and sent what no page sends."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.follow import StepReader
from inference.models import Generation, ServedModel
from tests.webapp.websocket import Websocket
from webapp.accounts.frame_limits import FrameLimit
from webapp.accounts.models import Membership, Role, User, Workspace
from webapp.asgi import application
from webapp.chat.consumers import COMMANDS
from webapp.chat.live import LiveHub
from webapp.chat.models import Conversation, Message

pytestmark = pytest.mark.django_db(transaction=True)

# What each command needs to reach somebody's conversation or reply; those that name none are for anybody.
OF_SOMEBODY: dict[str, dict[str, Any]] = {
    "open": {"conversation": "conversation"},
    "send": {"conversation": "conversation", "client_id": str(uuid.UUID(int=9)), "text": "Hello"},
    "stop": {"message": "reply"},
    "retry": {"message": "reply"},
    "rename": {"conversation": "conversation", "title": "Taken over"},
    "delete": {"conversation": "conversation"},
}
OF_NOBODY = {"ping"}


@pytest.fixture(autouse=True)
def _no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FrameLimit, "judge", lambda self, now: "ok")


@pytest.fixture(autouse=True)
async def _tasks_end() -> AsyncIterator[None]:
    yield
    LiveHub.current()._task.cancel()
    LiveHub._of_loop.clear()
    await StepReader.current().close()


@pytest.fixture
def conversation(alice: User, workspace: Workspace) -> Conversation:
    """Alice's, in the workspace that Bob is in too; its reply is unfinished."""
    now = timezone.now()
    model = ServedModel.objects.create(
        name="demo", path="demo", digest="0", architecture="llama", context_length=100, parameters=1, size_bytes=1,
        is_default=True,
    )  # fmt: skip
    generation = Generation.objects.create(
        workspace=workspace, model=model, messages=[], seed=1, deadline=now, sent_at=now, state="queued"
    )
    conversation = Conversation.objects.create(
        workspace=workspace, user=alice, title="Alice's own", updated_at=now
    )
    Message.objects.create(conversation=conversation, position=0, role="user", text="Hi")
    Message.objects.create(conversation=conversation, position=1, role="assistant", generation=generation)
    return conversation


def frame_of(command: str, conversation: Conversation) -> dict[str, Any]:
    ids = {"conversation": str(conversation.id), "reply": str(conversation.messages.get(position=1).id)}
    return {"type": command} | {name: ids.get(value, value) for name, value in OF_SOMEBODY[command].items()}


def rows() -> list[object]:
    return [
        list(Conversation.objects.values_list("id", "title")),
        list(Message.objects.values_list("id", "text", "generation_id").order_by("id")),
        list(Generation.objects.values_list("id", "state", "cancel_requested")),
    ]


async def socket_of(user: User | None) -> Websocket:
    client = Client()
    if user is not None:
        await client.aforce_login(user)
    socket = Websocket(application, "/ws/chat/", client)
    await socket.connect()
    return socket


def test_every_command_has_its_place_here() -> None:
    assert set(COMMANDS) == set(OF_SOMEBODY) | OF_NOBODY


@pytest.mark.parametrize("command", OF_SOMEBODY)
async def test_no_command_reaches_what_is_somebody_elses(
    command: str, conversation: Conversation, bob: User, charlie: User, elsewhere: Workspace
) -> None:
    frame = await sync_to_async(frame_of)(command, conversation)
    before = await sync_to_async(rows)()
    for person in (bob, charlie):
        socket = await socket_of(person)
        answer = await socket.ask(frame)
        assert (answer["type"], answer["code"]) == ("error", "not_found")
        ids = {str(conversation.id), frame.get("message")} - {None}
        made_up = await socket.ask({**frame, **{k: str(uuid.uuid4()) for k in frame if frame[k] in ids}})
        assert made_up == answer
        await socket.disconnect()
    assert await sync_to_async(rows)() == before


@sync_to_async
def _lose(why: str, user: User, client: Client | None = None) -> None:
    if why == "removed":
        other = Workspace.objects.create(name="Other")
        Membership.objects.filter(user=user).update(workspace=other, role=Role.OWNER)
    elif why == "inactive":
        User.objects.filter(pk=user.pk).update(is_active=False)
    else:
        user.set_password("another password 1")
        user.save()


@pytest.mark.parametrize("why", ["removed", "inactive", "stale session"])
@pytest.mark.parametrize("command", OF_SOMEBODY)
async def test_an_open_socket_does_nothing_more_for_who_may_no_longer(
    command: str, why: str, conversation: Conversation, alice: User
) -> None:
    frame = await sync_to_async(frame_of)(command, conversation)
    socket = await socket_of(alice)
    await _lose(why, alice)
    before = await sync_to_async(rows)()
    assert (await socket.ask(frame))["type"] == "closing"
    assert await socket.receive_close() == 4401
    assert await sync_to_async(rows)() == before
    await socket.disconnect()


NASTY: list[Any] = [
    *(None, True, False, 0, -1, 2**63, 2**200, 1.5, float("nan"), [], {}, [[]], {"a": 1}, "", "\x00", "x"),
    *(
        "00000000-0000-0000-0000-000000000000",
        "{" * 50,
        "\u202e",
        "a\x00b",
        "😀",
        [{"message": 1}],
        [{}],
        [None],
    ),
    [{"message": str(uuid.UUID(int=3)), "blocks": 2**70, "attempt": "x"}] * 3,
]
FIELDS = ["conversation", "message", "client_id", "text", "title", "after", "have", "ref"]
frames = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            [*OF_SOMEBODY, *OF_NOBODY, "chat_frame", "session_closed", "websocket.receive"]
        )
    },
    optional={name: st.sampled_from(NASTY) | st.just("$own") for name in FIELDS},
)


async def test_no_frame_breaks_a_command(conversation: Conversation, alice: User) -> None:
    socket = await socket_of(alice)
    reply = await conversation.messages.aget(position=1)
    own = {"conversation": str(conversation.id), "message": str(reply.id), "client_id": str(uuid.UUID(int=7))}
    examples: list[dict[str, Any]] = []

    @settings(
        max_examples=150,
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(frames)
    def collect(frame: dict[str, Any]) -> None:
        examples.append({k: own.get(k, "Hello") if v == "$own" else v for k, v in frame.items()})

    collect()
    for n, frame in enumerate(examples):
        if frame["type"] == "delete" and frame.get("conversation") == own["conversation"]:
            continue
        await socket.send_frame(frame)
        await socket.send_text(json.dumps({"type": "no_such_command", "ref": f"n{n}"}))
        while (answer := await socket.receive_frame()).get("ref") != f"n{n}":
            assert answer.get("code") != "internal", (frame, answer)
    await socket.disconnect()
