"""Every operation of the API, asked by everybody: without a key, with keys that open nothing or something else, from
another workspace, as member, admin and owner, and from pages. What each is told follows from the table in matrix.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import Settings

from inference.models import ServedModel
from tests.webapp.api.conftest import Page, key_client
from tests.webapp.api.matrix import IDS, PLACES, SECRET, Place, World, a_file
from webapp.accounts.models import ApiKey, Membership, Role, Scope, User, Workspace
from webapp.api.app import api

METHODS = {"get", "post", "put", "patch", "delete"}
ID = re.compile(r"{(\w+)}")
OTHER_SCOPES = "a key of all other scopes"
OUTSIDERS = ("another workspace's key", "the owner's key of another workspace")


@pytest.fixture(autouse=True)
def home(settings: Settings, tmp_path: Path) -> None:
    settings.FLYWHEEL_HOME = tmp_path


def operations() -> set[str]:
    paths = api.get_openapi_schema(path_prefix="/v1/")["paths"]
    return {
        f"{method.upper()} {path}"
        for path, methods in paths.items()
        for method in methods
        if method in METHODS
    }


def test_every_operation_has_its_place_in_the_table() -> None:
    assert operations() == set(PLACES)


def test_no_operation_is_missing_from_the_document() -> None:
    bound = {
        f"{method} /v1{prefix}{path}".rstrip("/").replace("{path:", "{")
        for prefix, router in api._routers
        for path, view in router.path_operations.items()
        for operation in view.operations
        for method in operation.methods
    }
    assert bound == operations()


def test_the_document_is_made_once_however_often_it_is_asked_for(
    db: None, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = client.get("/v1/openapi.json").content
    monkeypatch.setattr("ninja.main.get_schema", None)
    assert client.get("/v1/openapi.json").content == first


@contextmanager
def undone() -> Iterator[None]:
    """Whatever one caller does to the world is not there for the next."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def everybody(
    world: World, scope: str, *, member: User, outsider: User, elsewhere: Workspace
) -> dict[str, Client]:
    """Who calls, by what they are: each a client of their own."""
    owner, workspace, now = world.person, world.workspace, timezone.now()
    admin = User.objects.create_user("anna@example.org", "correct horse 4", name="Anna")
    Membership.objects.create(workspace=workspace, user=admin, role=Role.ADMIN)
    Membership.objects.create(workspace=elsewhere, user=owner, role=Role.OWNER)
    revoked, expired = key_client(owner, workspace), key_client(owner, workspace)
    newest = list(ApiKey.objects.filter(user=owner)[:2].values_list("pk", flat=True))
    ApiKey.objects.filter(pk=newest[1]).update(revoked_at=now)
    ApiKey.objects.filter(pk=newest[0]).update(expires_at=now - timedelta(seconds=1))
    # Made while he was an admin.
    Membership.objects.filter(user=member).update(role=Role.ADMIN)
    members = key_client(member, workspace)
    Membership.objects.filter(user=member).update(role=Role.MEMBER)
    without_token, logged_out = Page(owner), Page(owner)
    del without_token.defaults["HTTP_X_CSRFTOKEN"]
    logged_out.session.flush()
    return {
        "nobody": Client(),
        "a revoked key": revoked,
        "an expired key": expired,
        OTHER_SCOPES: key_client(owner, workspace, *(set(Scope.values) - {scope})),
        "another workspace's key": key_client(outsider, elsewhere),
        "the owner's key of another workspace": key_client(owner, elsewhere),
        "a member's key": members,
        "a member's page": Page(member),
        "an admin's key": key_client(admin, workspace),
        "the owner's key": key_client(owner, workspace),
        "the owner's page": Page(owner),
        "the owner's page without its token": without_token,
        "a page that is logged out": logged_out,
    }


REFUSED = {
    "nobody": "401 missing_api_key",
    "a page that is logged out": "401 missing_api_key",
    "a revoked key": "401 invalid_api_key",
    "an expired key": "401 expired_api_key",
    OTHER_SCOPES: "403 missing_scope",
}


def expected(who: str, method: str, place: Place, has_ids: bool) -> str:
    """The status and code they are told, or "let in"."""
    if who in REFUSED:
        return REFUSED[who]
    if who == "the owner's page without its token" and method != "GET":
        return "403 csrf_failed"
    if who.startswith("a member's") and place.scope != Scope.CHAT:
        return "403 admins_only"
    is_the_person = who.startswith("the owner's") and who not in OUTSIDERS
    if has_ids and (who in OUTSIDERS or (place.personal and not is_the_person)):
        return "404"
    return "let in"


def told(answer: Any, has_ids: bool) -> str:
    """Whoever is told what is wrong with their request, or that it cannot be done now, was let in."""
    if answer.status_code in (200, 400, 409):
        return "let in"
    if answer.status_code == 404 and has_ids:
        return "404"
    return f"{answer.status_code} {answer.json()['error']['code']}"


def ask(client: Client, method: str, path: str, place: Place, body: str, *, is_let_in: bool) -> Any:
    if place.form is not None:
        return client.post(path, {**place.form, "file": a_file()})
    if place.body is None:
        return client.generic(method, path)
    sent = '{"nonsense": 1}' if place.works and is_let_in else body
    return client.generic(method, path, data=sent, content_type="application/json")


RESOURCES = sorted({operation.split("/")[2] for operation in PLACES})


@pytest.mark.parametrize("resource", RESOURCES)
def test_everybody_gets_what_they_may_have_and_no_more(
    resource: str,
    alice: User,
    bob: User,
    charlie: User,
    workspace: Workspace,
    elsewhere: Workspace,
    model: ServedModel,
) -> None:
    places = {operation: place for operation, place in PLACES.items() if operation.split("/")[2] == resource}
    world = World(workspace, alice, model)
    ids = {name: str(IDS[name](world)) for name in set(ID.findall(str(places)))}
    (scope,) = {place.scope for place in places.values()}
    callers = everybody(world, scope, member=bob, outsider=charlie, elsewhere=elsewhere)
    wrong = []
    for operation, place in places.items():
        method, pattern = (operation + place.query).split(" ")
        body = json.dumps(place.body)
        has_ids = bool(ID.search(pattern + body))
        path, body = (ID.sub(lambda found: ids[found[1]], text) for text in (pattern, body))
        for who, client in callers.items():
            rule = expected(who, method, place, has_ids)
            with undone():
                answer = ask(client, method, path, place, body, is_let_in=rule == "let in")
            found = told(answer, has_ids)
            seen = "" if answer.streaming else answer.content.decode()
            if found != rule:
                wrong.append(f"{operation}, {who}: {found} instead of {rule}: {seen[:200]}")
            # The name they asked for they are told again.
            if asked_by_name := path.partition("/v1/models/")[2]:
                seen = seen.replace(asked_by_name, "")
            if SECRET in seen and (rule != "let in" or who in OUTSIDERS):
                wrong.append(f"{operation}, {who}: sees {seen[:200]}")
    assert not wrong, "\n".join(wrong)
