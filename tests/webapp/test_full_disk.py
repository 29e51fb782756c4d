"""A disk that is full while people write: they are told, nothing is half kept, and all goes on once there is room."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.db import DatabaseError, connection, transaction
from django.test import Client
from django.utils import timezone

from inference import services, worker_services
from inference.models import Generation, ServedModel
from tests.services import Valkey
from tests.webapp.api.conftest import key_client
from tests.webapp.websocket import Websocket
from webapp.accounts.models import ApiKey, User, Workspace
from webapp.asgi import application
from webapp.chat.consumers import ChatConsumer
from webapp.core.full_disk import no_room
from webapp.ops.doctor import broker as broker_check

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def full_database() -> Iterator[Callable[[], None]]:
    """Makes SQLite's file as large as it may be; not a byte of it is made up. Afterwards it may grow again."""
    if connection.vendor != "sqlite":
        pytest.skip("PostgreSQL has no such limit; what it says of a full disk is tested below")

    def fill() -> None:
        with connection.cursor() as cursor:
            cursor.execute("VACUUM")  # what other tests have left free would be room
            cursor.execute("PRAGMA page_count")
            (pages,) = cursor.fetchone()
            cursor.execute(f"PRAGMA max_page_count = {pages}")

    yield fill
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA max_page_count = 1073741823")


def test_a_page_and_a_program_are_told_that_the_disk_is_full_and_nothing_is_half_kept(
    full_database: Callable[[], None], alice: User, workspace: Workspace
) -> None:
    page, program = Client(), key_client(alice, workspace)
    page.force_login(alice)

    def ask() -> tuple[int, int]:
        on_page = page.post("/workspaces/new/", {"name": "W" * 60}).status_code
        answer = program.post("/v1/api_keys", {"name": "n" * 60, "scopes": ["chat"]}, "application/json")
        if answer.status_code == 507:
            assert answer.json()["error"]["code"] == "disk_full"
        return on_page, answer.status_code

    assert ask() == (302, 200)
    full_database()
    # What room there was on pages already there is used up first.
    answers = {ask() for _ in range(60)}
    assert (507, 507) in answers
    assert {status for pair in answers for status in pair} <= {302, 200, 507}
    for made in Workspace.objects.all():
        assert made.memberships.exists()
    kept = ApiKey.objects.count()
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA max_page_count = 1073741823")
    assert ask() == (302, 200)
    assert ApiKey.objects.count() == kept + 1


def test_what_postgresql_says_of_a_full_disk_is_known() -> None:
    if connection.vendor != "postgresql":
        pytest.skip("asked of PostgreSQL itself")
    for code, is_full in (("53100", True), ("23505", False)):
        with pytest.raises(DatabaseError) as caught, transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END $$")
        assert (no_room(caught.value) is not None) is is_full


async def test_a_socket_is_told_that_the_disk_is_full(
    alice: User, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    client = Client()
    await client.aforce_login(alice)
    socket = Websocket(application, "/ws/chat/", client)
    await socket.connect()
    monkeypatch.setattr(ChatConsumer, "work", no_disk)
    frame = await socket.ask({"type": "ping"})
    assert (frame["type"], frame["code"]) == ("error", "disk_full")
    await socket.disconnect()


def test_a_broker_whose_memory_is_full_loses_no_reply_and_locks_nobody_out(
    alice: User, workspace: Workspace, model: ServedModel, broker: Valkey
) -> None:
    with broker.client() as client:
        client.config_set("maxmemory", "1")
        try:
            asked = services.start_generation(
                workspace=workspace, model=model, messages=[{"role": "user", "content": "Hello"}]
            )
            form = {"login": "alice@example.org", "password": "correct horse 1"}
            assert Client().post("/accounts/login/", form).status_code == 302
            said = [finding.sentence for finding in broker_check.check()]
            assert any("of the 0 MB it may use" in sentence for sentence in said)
        finally:
            client.config_set("maxmemory", "0")
    assert services.queue_length(model.pk) == 0
    Generation.objects.update(sent_at=timezone.now() - timedelta(minutes=1))
    worker_services.reap()
    asked.refresh_from_db()
    assert (asked.state, services.queue_length(model.pk)) == ("queued", 1)
