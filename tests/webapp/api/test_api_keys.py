"""/v1/api_keys: programs that hand out keys and take them back."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from tests.webapp.api.conftest import key_client
from webapp.accounts.api_keys import create_key
from webapp.accounts.models import ApiKey, AuditEvent, Scope, User, Workspace

KEYS = "/v1/api_keys"
JSON = "application/json"


def test_a_key_is_made_shown_once_listed_and_revoked(alices: Client, client: Client) -> None:
    ends = int(timezone.now().timestamp()) + 86_400
    made = alices.post(
        KEYS, {"name": "shop", "scopes": ["files", "chat"], "expires_at": ends}, content_type=JSON
    ).json()
    bearer = {"Authorization": f"Bearer {made['value']}"}
    assert client.get("/v1/models", headers=bearer).status_code == 200
    assert made["redacted_value"] == made["value"][:11] + "…"
    assert (made["object"], made["name"], made["scopes"], made["expires_at"]) == (
        "api_key",
        "shop",
        ["chat", "files"],
        ends,
    )
    assert made["owner"]["name"] == "Alice"
    found = alices.get(f"{KEYS}/{made['id']}").json()
    assert found == {key: value for key, value in made.items() if key != "value"} | {
        "last_used_at": found["last_used_at"]
    }
    listed = alices.get(KEYS).json()
    assert (listed["object"], listed["data"][0], listed["has_more"]) == ("list", found, False)
    gone = alices.delete(f"{KEYS}/{made['id']}").json()
    assert gone == {"id": made["id"], "object": "api_key.deleted", "deleted": True}
    assert client.get("/v1/models", headers=bearer).status_code == 401
    assert alices.get(f"{KEYS}/{made['id']}").json()["revoked_at"] is not None
    assert AuditEvent.objects.filter(action="key_revoked").count() == 1


def test_keys_come_in_pages_newest_first(alices: Client, alice: User, workspace: Workspace) -> None:
    for number in range(4):
        create_key(user=alice, workspace=workspace, name=str(number), scopes=["chat"])
    names: list[str] = []
    after = ""
    while True:
        page = alices.get(f"{KEYS}?limit=2{after}").json()
        names += [key["name"] for key in page["data"]]
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert names == ["3", "2", "1", "0", "test"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"name": ""}, "bad_name"),
        ({"name": "a\x1bb"}, "bad_name"),
        ({"name": "x" * 201}, "invalid_value"),
        ({"name": 1}, "invalid_type"),
        ({"scopes": []}, "bad_scopes"),
        ({"scopes": ["god"]}, "invalid_value"),
        ({"scopes": "chat"}, "invalid_type"),
        ({"expires_at": 1}, "bad_expiry"),
        ({"expires_at": 10**13}, "invalid_value"),
        ({"expires_at": -1}, "invalid_value"),
        ({"owner": "bob"}, "unsupported_parameter"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_made(
    alices: Client, changes: dict[str, object], expected: str
) -> None:
    answer = alices.post(KEYS, {"name": "k", **changes}, content_type=JSON)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"].split(".")[0]) == (400, expected, *changes)
    assert ApiKey.objects.count() == 1


def test_a_key_gives_no_more_than_it_has(alice: User, workspace: Workspace) -> None:
    manager = key_client(alice, workspace, Scope.CHAT, Scope.ADMIN)
    assert manager.post(KEYS, {"name": "k"}, content_type=JSON).json()["scopes"] == ["chat"]
    more = manager.post(KEYS, {"name": "k", "scopes": ["training"]}, content_type=JSON)
    assert (more.status_code, more.json()["error"]["code"]) == (403, "bad_scopes")
    ApiKey.objects.update(expires_at=timezone.now() + timedelta(hours=1))
    longer = manager.post(KEYS, {"name": "k"}, content_type=JSON)
    assert (longer.status_code, longer.json()["error"]["code"]) == (403, "bad_expiry")


def test_another_workspaces_keys_do_not_exist(
    alices: Client, charlies: Client, alice: User, workspace: Workspace
) -> None:
    key = ApiKey.objects.get(user=alice)
    for answer in (
        charlies.get(f"{KEYS}/{key.pk}"),
        charlies.delete(f"{KEYS}/{key.pk}"),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    no_place = charlies.get(f"{KEYS}?after={key.pk}")
    assert (no_place.status_code, no_place.json()["error"]["param"]) == (400, "after")
    assert [found["owner"]["name"] for found in charlies.get(KEYS).json()["data"]] == ["Charlie"]
    assert alices.get(KEYS).status_code == 200
