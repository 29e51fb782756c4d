"""The websocket of a job's page: what changes is sent as HTML, to whoever may see it then, and to nobody else."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from time import monotonic
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from django.test import Client

from tests.training.data_pages.conftest import LogIn
from tests.training.job_pages.rows import RUNNING, learn
from tests.webapp.websocket import Websocket
from training import consumers, job_page
from training.job_notify import job_changed, job_group
from training.models import Job
from webapp.accounts.models import Membership, Role, User
from webapp.asgi import application

pytestmark = pytest.mark.django_db(transaction=True)
Open = Callable[[User], Awaitable[Websocket]]


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumers, "EVERY", 0.05)


@pytest.fixture
async def opened(logged_in: LogIn) -> AsyncIterator[Open]:
    sockets: list[Websocket] = []

    async def open_socket(user: User) -> Websocket:
        client: Client = await sync_to_async(logged_in)(user)
        socket = Websocket(application, "/ws/jobs/", client)
        await socket.connect()
        sockets.append(socket)
        return socket

    yield open_socket
    for socket in sockets:
        await socket.disconnect()


@sync_to_async
def change(job: Job, **fields: Any) -> None:
    Job.objects.filter(pk=job.pk).update(**fields)
    job_changed(job)


async def watch(socket: Websocket, job: Job) -> dict[str, Any]:
    return await socket.ask({"type": "watch", "job": str(job.pk)})


async def test_who_watches_gets_the_page_as_it_is_and_then_what_changes(
    opened: Open, alice: User, job: Job
) -> None:
    socket = await opened(alice)
    first = await watch(socket, job)
    assert (first["type"], first["job"]) == ("job", str(job.pk))
    assert list(first["html"]) == list(job_page.TEMPLATES)
    assert "queued" in first["html"]["state"]
    await change(job, **RUNNING)
    then = await socket.receive_frame()
    assert "training 42 %" in then["html"]["state"]
    # What is as it was is not sent again.
    assert "events" not in then["html"]
    await sync_to_async(learn)(job, 40)
    await change(job)
    curve = (await socket.receive_frame())["html"]
    assert "<svg" in curve["chart"]
    assert "At step 40" in curve["samples"]


async def test_many_changes_are_a_few_frames_and_the_last_one_is_seen(
    opened: Open, alice: User, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "EVERY", 0.5)
    read: list[object] = []
    parts = consumers.parts
    monkeypatch.setattr(consumers, "parts", lambda job: read.append(job) or parts(job))
    socket = await opened(alice)
    began = monotonic()
    await watch(socket, job)
    for step in range(61, 101):
        await change(job, state="running", steps=100, step=step)
    while "step 100 of 100" not in (await socket.receive_frame())["html"]["state"]:
        pass
    assert len(read) <= 2 + (monotonic() - began) / 0.5


async def test_a_change_that_changes_nothing_is_not_sent(opened: Open, alice: User, job: Job) -> None:
    socket = await opened(alice)
    await watch(socket, job)
    await change(job)
    await change(job, state="running")
    assert "training" in (await socket.receive_frame())["html"]["state"]


async def test_another_job_is_watched_instead_not_besides(opened: Open, alice: User, job: Job) -> None:
    socket = await opened(alice)
    await watch(socket, job)
    other = await sync_to_async(lambda: Job.objects.create(
        workspace=job.workspace, name="other", task="chat", data_label="x", spec={}, sent_at=job.sent_at
    ))()  # fmt: skip
    assert (await watch(socket, other))["job"] == str(other.pk)
    await change(job, state="failed")
    await change(other, state="paused")
    assert (await socket.receive_frame())["job"] == str(other.pk)


@pytest.mark.parametrize("who", ["bob", "charlie"])
async def test_members_and_outsiders_watch_nothing(
    who: str, opened: Open, alice: User, bob: User, charlie: User, elsewhere: object, job: Job
) -> None:
    socket = await opened({"bob": bob, "charlie": charlie}[who])
    answer = await watch(socket, job)
    assert (answer["type"], answer["code"]) == ("error", "not_found")
    await change(job, state="running")
    assert await socket.ask({"type": "ping"}) == {"type": "pong"}


@pytest.mark.parametrize(
    "wrong",
    [{}, {"job": "x"}, {"job": 7}, {"job": None}, {"job": ["a"]}, {"job": "\x00"}, {"job": "9" * 5000}],
)
async def test_nonsense_is_answered_with_a_sentence_and_the_socket_lives(
    wrong: dict[str, Any], opened: Open, alice: User, workspace: object
) -> None:
    socket = await opened(alice)
    assert (await socket.ask({"type": "watch", **wrong}))["code"] == "bad_frame"
    absent = await socket.ask({"type": "watch", "job": str(uuid.uuid4())})
    assert absent["code"] == "not_found"
    assert (await socket.ask({"type": "unwatch"}))["code"] == "bad_frame"
    assert await socket.ask({"type": "ping"}) == {"type": "pong"}


async def test_who_is_no_admin_any_more_is_shown_nothing_more(opened: Open, dora: User, job: Job) -> None:
    socket = await opened(dora)
    await watch(socket, job)
    await sync_to_async(Membership.objects.filter(user=dora).update)(role=Role.MEMBER)
    await change(job, state="running")
    assert await socket.receive_frame() == {"type": "gone", "job": str(job.pk)}
    await change(job, state="failed")
    assert await socket.ask({"type": "ping"}) == {"type": "pong"}


async def test_a_job_that_is_deleted_is_gone(opened: Open, alice: User, job: Job) -> None:
    socket = await opened(alice)
    await watch(socket, job)
    await sync_to_async(Job.objects.filter(pk=job.pk).delete)()
    message = {"type": "job.changed", "job": str(job.pk)}
    await get_channel_layer().group_send(job_group(job.pk), message)
    assert (await socket.receive_frame())["type"] == "gone"


async def test_a_login_that_ended_is_shown_nothing_more(opened: Open, alice: User, job: Job) -> None:
    socket = await opened(alice)
    await watch(socket, job)
    await sync_to_async(User.objects.filter(pk=alice.pk).update)(is_active=False)
    await change(job, state="running")
    assert await socket.receive_frame() == {"type": "closing", "reason": "logged_out"}
    assert await socket.receive_close() == 4401


async def test_what_is_sent_is_in_the_readers_language(logged_in: LogIn, alice: User, job: Job) -> None:
    client = await sync_to_async(logged_in)(alice)
    client.cookies["django_language"] = "zh-hans"
    socket = Websocket(application, "/ws/jobs/", client)
    await socket.connect()
    await watch(socket, job)
    await change(job, state="running")
    assert "训练中" in (await socket.receive_frame())["html"]["state"]
    await socket.disconnect()
