"""How much a request may bring, how slowly, and who may bring more: the web process's door for bodies."""

from __future__ import annotations

import asyncio
import errno
import json
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator

from webapp.accounts.api_keys import create_key
from webapp.accounts.models import Membership, Role, User, Workspace
from webapp.api.application import largest_body
from webapp.asgi import application
from webapp.core.body_limit import MAX_BODY_BYTES, limit_bodies
from webapp.core.errors import UserError


def http_scope(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {
        "type": "http", "method": "POST", "path": "/accounts/login/", "raw_path": b"/accounts/login/",
        "query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": "",
        "headers": [(b"host", b"localhost"), *headers], "client": ("192.0.2.1", 5), "server": ("localhost", 80),
    }  # fmt: skip


async def test_a_body_that_announces_too_much_is_refused_before_it_is_sent() -> None:
    length = (b"content-length", str(MAX_BODY_BYTES + 1).encode())
    door = ApplicationCommunicator(application, http_scope(length))
    assert (await door.receive_output(5))["status"] == 413


async def test_a_body_that_announces_nothing_is_refused_when_it_has_grown_too_long() -> None:
    door = ApplicationCommunicator(application, http_scope((b"transfer-encoding", b"chunked")))
    for _ in range(5):
        await door.send_input({"type": "http.request", "body": b"x" * 2**20, "more_body": True})
    assert (await door.receive_output(5))["status"] == 413


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Of a body of two parts."""
    body = (await receive())["body"] + (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def test_a_body_of_usual_size_arrives_whole() -> None:
    door = ApplicationCommunicator(limit_bodies(echo, 10), http_scope((b"content-length", b"10")))
    await door.send_input({"type": "http.request", "body": b"12345", "more_body": True})
    await door.send_input({"type": "http.request", "body": b"67890", "more_body": False})
    assert (await door.receive_output(5))["status"] == 200
    assert (await door.receive_output(5))["body"] == b"1234567890"


async def refusal(door: ApplicationCommunicator) -> tuple[int, str]:
    """Its status and code, of an answer that ends."""
    start = await door.receive_output(5)
    assert (b"connection", b"close") in start["headers"]
    body, more = b"", True
    while more:
        part = await door.receive_output(10)
        body, more = body + part["body"], part.get("more_body", False)
    return start["status"], json.loads(body)["error"]["code"]


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    scope = http_scope((b"content-length", b"10")) | {"path": "/v1/models"}
    door = ApplicationCommunicator(limit_bodies(echo, 10, silence=0.05), scope)
    await door.send_input({"type": "http.request", "body": b"12345", "more_body": True})
    assert await refusal(door) == (408, "request_timeout")


async def test_a_body_that_trickles_is_not_waited_for_either() -> None:
    """Each part comes in time, and all of them would take hours."""

    async def drip() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def read(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass

    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await limit_bodies(read, 1000, silence=0.1)(http_scope() | {"path": "/v1/models"}, drip, send)
    assert sent[0]["status"] == 408


async def test_a_longer_body_is_let_in_where_its_sender_may_send_it() -> None:
    asked = []

    async def allowance(scope: Any) -> int:
        asked.append(scope["path"])
        return 10

    for announced in ((b"content-length", b"10"), (b"transfer-encoding", b"chunked")):
        door = ApplicationCommunicator(limit_bodies(echo, 4, allowance), http_scope(announced))
        await door.send_input({"type": "http.request", "body": b"12345", "more_body": True})
        await door.send_input({"type": "http.request", "body": b"67890", "more_body": False})
        assert (await door.receive_output(5))["status"] == 200
    assert len(asked) == 2
    door = ApplicationCommunicator(limit_bodies(echo, 4, allowance), http_scope((b"content-length", b"11")))
    await door.send_input({"type": "http.request", "body": b"x" * 11, "more_body": False})
    assert (await door.receive_output(5))["status"] == 413


async def test_whoever_may_not_send_more_is_told_why() -> None:
    async def allowance(scope: Any) -> int:
        raise UserError("missing_scope", "No.", status=403)

    scope = http_scope((b"content-length", b"5")) | {"path": "/v1/files"}
    door = ApplicationCommunicator(limit_bodies(echo, 4, allowance), scope)
    await door.send_input({"type": "http.request", "body": b"12345", "more_body": False})
    assert await refusal(door) == (403, "missing_scope")


async def test_a_full_disk_is_said_and_not_an_error() -> None:
    async def spool(scope: Any, receive: Any, send: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    door = ApplicationCommunicator(limit_bodies(spool, 10), http_scope() | {"path": "/v1/files"})
    await door.send_input({"type": "http.request", "body": b"", "more_body": False})
    assert await refusal(door) == (507, "disk_full")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("who", "path", "method", "expected"),
    [
        ("files", "/v1/files", "POST", 513 * 2**20),  # the file, and the form round it
        ("files", "/v1/models", "POST", MAX_BODY_BYTES),
        ("files", "/v1/files", "PUT", MAX_BODY_BYTES),
        ("nobody", "/v1/files", "POST", MAX_BODY_BYTES),
        ("chat", "/v1/files", "POST", "missing_scope"),
        ("member", "/v1/files", "POST", "admins_only"),
        ("nonsense", "/v1/files", "POST", "invalid_api_key"),
    ],
)
async def test_only_who_has_a_key_for_files_may_send_a_large_one(
    workspace: Workspace, alice: User, who: str, path: str, method: str, expected: object
) -> None:
    headers = []
    if who != "nobody":
        scope = "files" if who in ("files", "member") else "chat"
        _key, token = await sync_to_async(create_key)(
            user=alice, workspace=workspace, name="k", scopes=[scope]
        )
        if who == "member":
            await Membership.objects.aupdate(role=Role.MEMBER)
        headers = [(b"authorization", f"Bearer {token}{'x' if who == 'nonsense' else ''}".encode())]
    scope_of_request = http_scope(*headers) | {"path": path, "method": method}
    try:
        found: object = await largest_body(scope_of_request)
    except UserError as error:
        found = error.code
    assert found == expected
