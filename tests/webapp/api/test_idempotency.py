"""Idempotency-Key: what is sent twice is done once, whatever dies in between, and is answered alike."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import Settings

from inference.models import Generation
from tests.services import Site, wait_until
from tests.webapp.api.conftest import key_client
from tests.webapp.api.live_clients import http_client, key_of
from training import services as training
from training.models import SourceFile
from webapp.accounts.models import ApiKey, Membership, Role, User, Workspace
from webapp.api import idempotency
from webapp.api.models import Completion, IdempotentRequest
from webapp.core.errors import UserError

KEYS = "/v1/api_keys"
LINE = b'{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}\n'


@pytest.fixture(autouse=True)
def home(settings: Settings, tmp_path: Path) -> None:
    settings.FLYWHEEL_HOME = tmp_path


def upload(client: Client, key: str | None = "k1", content: bytes = LINE, **fields: str) -> Any:
    form = {"purpose": "fine-tune", **fields, "file": SimpleUploadedFile("a.jsonl", content)}
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post("/v1/files", form, headers=headers)


def code(answer: Any) -> str:
    return f"{answer.status_code} {answer.json()['error']['code']}"


def test_the_same_request_with_the_same_key_is_done_once_and_answered_alike(alices: Client) -> None:
    first, again = upload(alices), upload(alices)
    assert (first.status_code, again.status_code, again.content) == (200, 200, first.content)
    assert again.headers["Content-Type"] == first.headers["Content-Type"]
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert SourceFile.objects.count() == 1


def test_without_a_key_or_with_another_it_is_done_again(alices: Client) -> None:
    ids = {upload(alices, key).json()["id"] for key in (None, None, "k1", "k2")}
    assert len(ids) == SourceFile.objects.count() == 4


def test_a_key_that_came_with_another_request_is_refused(alices: Client) -> None:
    assert upload(alices).status_code == 200
    for other in (
        upload(alices, content=LINE * 2),
        upload(alices, purpose="batch"),
        alices.post(KEYS, {"name": "k"}, content_type="application/json", headers={"Idempotency-Key": "k1"}),
        alices.post("/v1/files?x=1", headers={"Idempotency-Key": "k1"}),
    ):
        assert code(other) == "400 idempotency_key_reused"
        assert other.json()["error"]["param"] == "Idempotency-Key"
    assert SourceFile.objects.count() == 1


def test_a_key_is_its_persons_and_its_workspaces(
    alices: Client, charlies: Client, alice: User, bob: User, workspace: Workspace, elsewhere: Workspace
) -> None:
    Membership.objects.filter(user=bob).update(role=Role.ADMIN)
    Membership.objects.create(user=alice, workspace=elsewhere, role=Role.ADMIN)
    clients = [alices, charlies, key_client(bob, workspace), key_client(alice, elsewhere)]
    assert [upload(client).status_code for client in clients] == [200] * 4
    assert SourceFile.objects.count() == 4
    # Two keys of the same person in the same workspace are the same caller.
    assert upload(key_client(alice, workspace)).headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize("key", ["", "x" * 256, "ключ", "a\tb", "a\x7fb"])
def test_a_key_has_1_to_255_printable_characters(alices: Client, key: str) -> None:
    assert code(upload(alices, key)) == "400 invalid_idempotency_key"
    assert not SourceFile.objects.exists()


def test_the_longest_key_is_one(alices: Client) -> None:
    key = "~" * 255
    assert [upload(alices, key).status_code for _ in range(2)] == [200, 200]
    assert SourceFile.objects.count() == 1


def test_what_was_refused_is_refused_again_and_who_was_not_let_in_claims_nothing(
    alices: Client, bobs: Client
) -> None:
    assert upload(bobs).status_code == 403
    assert not IdempotentRequest.objects.exists()
    first, again = upload(alices, purpose="batch"), upload(alices, purpose="batch")
    assert (first.status_code, again.content) == (400, first.content)
    assert again.headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("oops"), 500),
        (UserError("busy", "Busy.", status=503, retry_after=5), 503),
        (UserError("rate_limit_exceeded", "Slowly.", status=429, retry_after=5), 429),
    ],
)
def test_what_failed_for_now_may_be_tried_again_and_left_nothing(
    alices: Client, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    create = training.create_dataset

    def break_behind(**values: Any) -> None:
        create(**values)
        raise error

    monkeypatch.setattr(training, "create_dataset", break_behind)
    assert upload(alices).status_code == status
    assert not IdempotentRequest.objects.exists()
    assert not training.Dataset.objects.exists()
    monkeypatch.undo()
    assert upload(alices).status_code == 200


# By any clock: rows are judged by the database's, which may be a little behind.
A_MOMENT = timedelta(seconds=1)


def as_if_being_worked_on(seconds: float) -> None:
    """The row as it is while the first request is worked on, or for ever where its process was killed then."""
    began = timezone.now() - timedelta(seconds=seconds)
    IdempotentRequest.objects.update(status=None, body="", created_at=began)


def test_while_the_first_is_worked_on_a_repeat_is_told_to_wait(alices: Client) -> None:
    upload(alices)
    as_if_being_worked_on(idempotency.LEASE.total_seconds() - 5)
    answer = upload(alices)
    assert code(answer) == "409 idempotency_in_progress"
    assert answer.headers["Retry-After"] == "1"
    assert code(upload(alices, content=LINE * 2)) == "400 idempotency_key_reused"


def test_a_process_that_was_killed_does_not_keep_the_key(alices: Client) -> None:
    upload(alices)
    as_if_being_worked_on(idempotency.LEASE.total_seconds() + 1)
    answer = upload(alices)
    assert answer.status_code == 200
    assert "Idempotent-Replayed" not in answer.headers
    assert upload(alices).content == answer.content


def test_what_was_done_is_undone_where_its_answer_cannot_be_kept(
    alices: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a kill between the two does."""

    def die(*_: object) -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr(idempotency, "_keep", die)
    alices.raise_request_exception = False
    assert upload(alices).status_code == 500
    assert not SourceFile.objects.exists()
    monkeypatch.undo()
    as_if_being_worked_on(idempotency.LEASE.total_seconds() + 1)
    assert upload(alices).status_code == 200
    assert SourceFile.objects.count() == 1


def test_who_comes_too_late_undoes_what_they_did(alices: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their lease ran out, and another request has begun the same meanwhile."""
    create = training.create_dataset

    def slowly(**values: Any) -> Any:
        IdempotentRequest.objects.update(created_at=timezone.now())
        return create(**values)

    monkeypatch.setattr(training, "create_dataset", slowly)
    assert code(upload(alices)) == "409 idempotency_in_progress"
    assert not SourceFile.objects.exists()


def test_a_secret_is_not_kept_and_made_only_once(alices: Client) -> None:
    def make() -> Any:
        headers = {"Idempotency-Key": "k1"}
        return alices.post(KEYS, {"name": "k"}, content_type="application/json", headers=headers)

    first = make()
    assert first.json()["value"] not in str(list(IdempotentRequest.objects.values()))
    assert code(make()) == "409 idempotency_answer_gone"
    assert ApiKey.objects.count() == 2


def test_an_answer_that_is_too_long_is_not_kept(alices: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "MAX_KEPT_CHARACTERS", 20)
    assert upload(alices).status_code == 200
    assert code(upload(alices)) == "409 idempotency_answer_gone"
    assert SourceFile.objects.count() == 1


def test_after_a_day_a_key_is_new_again_and_is_swept_away(alices: Client) -> None:
    upload(alices, "k1")
    upload(alices, "k2")
    IdempotentRequest.objects.filter(key="k1").update(created_at=timezone.now() - idempotency.KEPT - A_MOMENT)
    assert "Idempotent-Replayed" not in upload(alices, "k1").headers
    IdempotentRequest.objects.filter(key="k1").update(created_at=timezone.now() - idempotency.KEPT - A_MOMENT)
    idempotency.sweep()
    assert list(IdempotentRequest.objects.values_list("key", flat=True)) == ["k2"]


def test_reading_takes_no_notice_of_a_key(alices: Client) -> None:
    for _ in range(2):
        answer = alices.get("/v1/files", headers={"Idempotency-Key": "k1"})
        assert "Idempotent-Replayed" not in answer.headers
    assert not IdempotentRequest.objects.exists()


def test_the_document_says_that_every_post_takes_a_key(alices: Client) -> None:
    for path, methods in alices.get("/v1/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            headers = [found["name"] for found in operation["parameters"] if found["in"] == "header"]
            assert headers.count("Idempotency-Key") == (method == "post"), (method, path)


@pytest.mark.django_db(transaction=True)
def test_of_many_that_come_at_once_one_is_done(alice: User, workspace: Workspace) -> None:
    client = key_client(alice, workspace)
    barrier = threading.Barrier(6)
    answers: list[Any] = []

    def ask() -> None:
        try:
            barrier.wait(20)
            answers.append(upload(client))
        finally:
            connection.close()

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 6
    done = [answer for answer in answers if answer.status_code == 200]
    assert len({answer.content for answer in done}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in done) == 1
    assert {code(answer) for answer in answers if answer not in done} <= {"409 idempotency_in_progress"}
    assert SourceFile.objects.count() == 1


# --- completions, on a live site ------------------------------------------------------------------------------
def chat(key: str, content: str = "tokens=20", **body: object) -> dict[str, Any]:
    return {
        "url": "/chat/completions",
        "json": {"model": "scripted", "messages": [{"role": "user", "content": content}], **body},
        "headers": {"Idempotency-Key": key},
    }


def counted(site: Site) -> tuple[int, int]:
    with site.rows():
        return Completion.objects.count(), Generation.objects.count()


def chunks(response: httpx.Response) -> list[tuple[str, Any]]:
    """The events' ids, and what they say."""
    found = []
    for event in response.read().decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in event.splitlines() if not line.startswith(":"))
        if fields.get("data", "[DONE]") != "[DONE]":
            found.append((fields.get("id", ""), json.loads(fields["data"])))
    return found


def said(events: list[tuple[str, Any]]) -> str:
    return "".join(
        choice["delta"].get("content") or "" for _id, chunk in events for choice in chunk["choices"]
    )


def test_a_completion_is_made_once_and_can_be_had_again_whole_or_from_any_event(live_site: Site) -> None:
    http = http_client(live_site, key_of(live_site))
    before = counted(live_site)
    first, again = http.post(**chat("whole")), http.post(**chat("whole"))
    assert again.json() == first.json()
    assert ("Idempotent-Replayed" in first.headers, again.headers["Idempotent-Replayed"]) == (False, "true")
    assert http.post(**chat("whole", "other")).json()["error"]["code"] == "idempotency_key_reused"

    events = chunks(http.post(**chat("stream", stream=True)))
    assert said(chunks(http.post(**chat("stream", stream=True)))) == said(events)
    middle = events[len(events) // 2][0]
    request = chat("stream", stream=True)
    request["headers"]["Last-Event-ID"] = middle
    rest = chunks(http.post(**request))
    assert said(events[: len(events) // 2 + 1]) + said(rest) == said(events)
    after = counted(live_site)
    assert (after[0] - before[0], after[1] - before[1]) == (2, 2)


def test_a_completion_survives_the_process_that_was_asked_for_it(live_site: Site) -> None:
    """The web process is killed while it waits; whoever asks again gets the answer, and no second one is made."""
    key = key_of(live_site)
    before = counted(live_site)
    request = chat("killed", "tokens=60 rate=60")

    def lose() -> None:
        with pytest.raises(httpx.HTTPError):
            http_client(live_site, key).post(**request)

    waiting = threading.Thread(target=lose)
    waiting.start()
    wait_until(lambda: counted(live_site)[1] > before[1], "the completion to be begun")
    live_site.web.kill()
    waiting.join(20)
    live_site.heal()
    answer = http_client(live_site, key).post(**request)
    assert answer.status_code == 200
    assert answer.headers["Idempotent-Replayed"] == "true"
    assert answer.json()["usage"]["completion_tokens"] == 60
    assert counted(live_site)[0] == before[0] + 1
