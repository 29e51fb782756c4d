"""Limits are set by admins, on a page and over the API, within what makes sense, and it is on record who did."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest
from django.test import Client

from inference.models import Generation, ServedModel, UsageDay
from tests.webapp.api.conftest import key_client
from tests.webapp.limits.conftest import limit
from webapp.accounts import limits
from webapp.accounts.api_keys import create_key
from webapp.accounts.limit_rules import RANGES
from webapp.accounts.models import AuditEvent, LimitRule, Membership, Role, User, Workspace
from webapp.chat.services import send_message
from webapp.core.errors import UserError

pytestmark = pytest.mark.django_db
NUMBERS = ("requests_per_minute", "tokens_per_minute", "concurrent_streams", "monthly_tokens")


def logged_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def words(answer: Any) -> str:
    page = answer.content.decode().split("<main", 1)[1].split("</main>")[0]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def rule(**whose: Any) -> tuple[int | None, ...]:
    return LimitRule.objects.values_list(*NUMBERS).get(**whose)


def test_an_admin_sets_the_limits_of_the_workspace_a_member_and_a_key(
    workspace: Workspace, alice: User, bob: User
) -> None:
    Membership.objects.filter(user=bob).update(role=Role.ADMIN)
    key, _token = create_key(user=alice, workspace=workspace, name="Help desk", scopes=["chat"])
    client = logged_in(bob)
    for path, body, whose in (
        ("/usage/limits/workspace/", {"monthly_tokens": "1000000"}, {"user": None, "api_key": None}),
        (
            f"/usage/limits/members/{alice.pk}/",
            {"requests_per_minute": "5", "tokens_per_minute": ""},
            {"user": alice},
        ),
        (f"/usage/limits/keys/{key.pk}/", {"concurrent_streams": "3"}, {"api_key": key}),
    ):
        answer = client.post(path, body, follow=True)
        assert "Saved. It holds within a few seconds." in words(answer)
        assert dict(zip(NUMBERS, rule(**whose), strict=True)) == {
            name: int(body[name]) if body.get(name) else None for name in NUMBERS
        }
    said = words(client.get("/usage/limits/"))
    assert "Acme no limit no limit 0 , no limit 0 of 1,000,000" in said
    assert "Alice alice@example.org 0 of 5 no limit 0 , no limit 0 , no limit" in said
    assert re.search(r"Help desk fw-\w+… · Alice no limit no limit 0 of 3 0 , no limit", said)
    events = AuditEvent.objects.filter(action="limits_changed", actor=bob, workspace=workspace).order_by("id")
    assert [event.detail.get("user") or event.detail.get("prefix") for event in events] == [
        None,
        str(alice.pk),
        key.prefix,
    ]
    assert events[1].detail["before"]["requests_per_minute"] is None
    assert events[1].detail["after"]["requests_per_minute"] == 5
    assert "Changed limits: Alice" in words(client.get("/settings/workspace/audit/"))


def test_limits_that_are_all_empty_are_none_and_nothing_is_noted_where_nothing_changed(
    workspace: Workspace, alice: User
) -> None:
    client = logged_in(alice)
    client.post("/usage/limits/workspace/", {"requests_per_minute": "5"})
    client.post("/usage/limits/workspace/", {"requests_per_minute": "5"})
    client.post("/usage/limits/workspace/", dict.fromkeys(NUMBERS, ""))
    assert not LimitRule.objects.exists()
    assert AuditEvent.objects.filter(action="limits_changed").count() == 2


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_out_of_range_are_refused_beside_their_field(
    name: str, workspace: Workspace, alice: User
) -> None:
    low, high = RANGES[name]
    client = logged_in(alice)
    for value in (low - 1, high + 1, "1.5", "many", "-1", "9" * 400):
        answer = client.post("/usage/limits/workspace/", {name: value})
        assert answer.status_code == 400
        assert f'id="id_{name}_error"' in answer.content.decode()
    assert not LimitRule.objects.exists()
    for value in (low, high):
        assert client.post("/usage/limits/workspace/", {name: value}).status_code == 302


@pytest.mark.django_db(transaction=True)
def test_what_is_used_now_stands_beside_each_limit(
    workspace: Workspace, alice: User, bob: User, model: ServedModel
) -> None:
    limit(workspace, user_id=bob.pk, requests_per_minute=10, tokens_per_minute=5000, concurrent_streams=1)
    sent = send_message(
        user=bob, workspace=workspace, conversation_id=None, client_id=uuid.uuid4(), text="Hello"
    )
    assert sent.reply.generation is not None
    Generation.objects.create(
        workspace=workspace, user=bob, model=model, purpose="title", seed=1,
        deadline=sent.reply.generation.deadline, sent_at=sent.reply.generation.sent_at,
    )  # fmt: skip
    UsageDay.objects.create(
        workspace=workspace, day=sent.conversation.updated_at.date(), user_id=bob.pk, model_name="demo",
        source="chat", prompt_tokens=30_000,
    )  # fmt: skip
    answer = logged_in(alice).get("/usage/limits/")
    assert "Bob bob@example.org 1 of 10 1,026 of 5,000 1 of 1 30,000 , no limit" in words(answer)
    assert answer.content.decode().count("number full") == 1
    assert "Now: 1,026 of 5,000" in words(logged_in(alice).get(f"/usage/limits/members/{bob.pk}/"))


def test_a_change_holds_at_once_where_it_was_made(
    workspace: Workspace, alice: User, django_capture_on_commit_callbacks: Any
) -> None:
    ask: dict[str, Any] = {"workspace_id": workspace.pk, "user_id": alice.pk, "api_key_id": None, "tokens": 1}
    assert limits.admit(**ask, slot=uuid.uuid4()) == {}
    with django_capture_on_commit_callbacks(execute=True):
        logged_in(alice).post("/usage/limits/workspace/", {"requests_per_minute": "1"})
    assert limits.admit(**ask, slot=uuid.uuid4())["x-ratelimit-remaining-requests"] == "0"
    with pytest.raises(UserError):
        limits.admit(**ask, slot=uuid.uuid4())
    with django_capture_on_commit_callbacks(execute=True):
        logged_in(alice).post("/usage/limits/workspace/", {"requests_per_minute": "2"})
    assert limits.admit(**ask, slot=uuid.uuid4())["x-ratelimit-remaining-requests"] == "0"


def test_who_and_what_is_another_workspaces_does_not_exist(
    workspace: Workspace, elsewhere: Workspace, alice: User, charlie: User
) -> None:
    theirs, _token = create_key(user=charlie, workspace=elsewhere, name="theirs", scopes=["chat"])
    client = logged_in(alice)
    for path in (
        f"/usage/limits/members/{charlie.pk}/",
        f"/usage/limits/keys/{theirs.pk}/",
        f"/usage/limits/members/{uuid.uuid4()}/",
        f"/usage/limits/keys/{uuid.uuid4()}/",
    ):
        assert client.get(path).status_code == 404
        assert client.post(path, {"requests_per_minute": "1"}).status_code == 404
    assert not LimitRule.objects.exists()


def test_the_sites_own_limits_are_shown_to_those_who_set_others(
    alice: User, workspace: Workspace, settings: Any
) -> None:
    client = logged_in(alice)
    assert "limits of its own" not in words(client.get("/usage/limits/"))
    settings.LIMIT_TOKENS_PER_MINUTE = 50_000
    assert "whatever is set here: 50,000 tokens a minute." in words(client.get("/usage/limits/"))


# --- /v1/limits -----------------------------------------------------------------------------------------------


def test_programs_read_and_set_limits(workspace: Workspace, alice: User, bob: User) -> None:
    client = key_client(alice, workspace, "admin")
    key = alice.api_keys.get()
    body = client.get("/v1/limits").json()
    assert body["object"] == "list"
    assert [(row["type"], row["id"]) for row in body["data"]] == [
        ("workspace", str(workspace.pk)),
        ("user", str(alice.pk)),
        ("user", str(bob.pk)),
        ("key", str(key.pk)),
    ]
    for path in ("workspace", f"users/{bob.pk}", f"keys/{key.pk}"):
        answer = client.put(
            f"/v1/limits/{path}",
            {"tokens_per_minute": 7, "monthly_tokens": None},
            content_type="application/json",
        )
        assert answer.status_code == 200
        assert answer.json() == client.get(f"/v1/limits/{path}").json()
        assert {name: answer.json()[name] for name in NUMBERS} == dict.fromkeys(NUMBERS) | {
            "tokens_per_minute": 7
        }
        assert answer.json()["used"] == {
            "requests_per_minute": None,
            "tokens_per_minute": 0,
            "concurrent_streams": 0,
            "monthly_tokens": 0,
        }
    # All of them are put: what is left out is no limit any more.
    client.put("/v1/limits/workspace", {"concurrent_streams": 2}, content_type="application/json")
    assert rule(user=None, api_key=None) == (None, None, 2, None)
    assert AuditEvent.objects.filter(action="limits_changed").count() == 4


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"requests_per_minute": 1_000_001}, "requests_per_minute"),
        ({"tokens_per_minute": 1.5}, "tokens_per_minute"),
        ({"monthly_tokens": True}, "monthly_tokens"),
        ({"concurrent_streams": "3"}, "concurrent_streams"),
        ({"monthly_tokens": 10**18}, "monthly_tokens"),
        ({"requests_per_day": 1}, "requests_per_day"),
        ([], None),
    ],
)
def test_numbers_that_make_no_sense_are_refused_by_name(
    body: Any, param: str | None, workspace: Workspace, alice: User
) -> None:
    answer = key_client(alice, workspace, "admin").put(
        "/v1/limits/workspace", body, content_type="application/json"
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert not LimitRule.objects.exists()


def test_programs_of_members_and_of_other_workspaces_change_nothing(
    workspace: Workspace, elsewhere: Workspace, alice: User, bob: User, charlie: User
) -> None:
    outsiders = key_client(charlie, elsewhere, "admin")
    for path in (f"users/{bob.pk}", f"keys/{uuid.uuid4()}", "users/nonsense"):
        assert outsiders.get(f"/v1/limits/{path}").status_code == 404
        answer = outsiders.put(f"/v1/limits/{path}", {}, content_type="application/json")
        assert answer.status_code == 404
    assert outsiders.get("/v1/limits/workspace").json()["id"] == str(elsewhere.pk)
    chat_only = key_client(alice, workspace, "chat")
    assert chat_only.get("/v1/limits").json()["error"]["code"] == "missing_scope"
    assert not LimitRule.objects.exists()
