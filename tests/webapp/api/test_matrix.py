"""Every operation of the API, asked by everybody: without a key, with keys that open nothing or something else, from
another workspace, as member, admin and owner, and from pages. What each is told follows from the table in matrix.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone

from inference.models import ServedModel
from tests.webapp.api.conftest import Page, key_client
from tests.webapp.api.matrix import IDS, PLACES, Place, World
from webapp.accounts.models import ApiKey, Membership, Role, Scope, User, Workspace
from webapp.api.app import api

METHODS = {"get", "post", "put", "patch", "delete"}


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


@contextmanager
def undone() -> Iterator[None]:
    """Whatever one caller does to the world is not there for the next."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


class Everybody:
    """Who calls, by what they are: each a client of their own."""

    def __init__(
        self, world: World, place: Place, *, member: User, outsider: User, elsewhere: Workspace
    ) -> None:
        self.world, self.place = world, place
        owner, workspace = world.person, world.workspace
        admin = User.objects.create_user("anna@example.org", "correct horse 4", name="Anna")
        Membership.objects.create(workspace=workspace, user=admin, role=Role.ADMIN)
        revoked, expired = key_client(owner, workspace), key_client(owner, workspace)
        now = timezone.now()
        ApiKey.objects.filter(pk=newest(owner, 1).pk).update(revoked_at=now)
        ApiKey.objects.filter(pk=newest(owner, 0).pk).update(expires_at=now - timedelta(seconds=1))
        # Made while he was an admin.
        Membership.objects.filter(user=member).update(role=Role.ADMIN)
        members = key_client(member, workspace)
        Membership.objects.filter(user=member).update(role=Role.MEMBER)
        without_token = Page(owner)
        del without_token.defaults["HTTP_X_CSRFTOKEN"]
        logged_out = Page(owner)
        logged_out.session.flush()
        self.clients: dict[str, Client] = {
            "nobody": Client(),
            "a revoked key": revoked,
            "an expired key": expired,
            "a key that is none": Client(headers={"Authorization": "Bearer fw-aaaaaaaa-b"}),
            "a key of other scopes": key_client(owner, workspace, *(set(Scope.values) - {place.scope})),
            "another workspace's key": key_client(outsider, elsewhere),
            "another workspace's page": Page(outsider),
            "a member's key": members,
            "a member's page": Page(member),
            "an admin's key": key_client(admin, workspace),
            "an admin's page": Page(admin),
            "the owner's key": key_client(owner, workspace),
            "the owner's page": Page(owner),
            "the owner's page without its token": without_token,
            "a page that is logged out": logged_out,
        }


def newest(user: User, skip: int) -> ApiKey:
    return ApiKey.objects.filter(user=user)[skip]


def expected(who: str, method: str, place: Place, has_ids: bool) -> str:
    """The status and code they are told, or "let in"."""
    refused = {
        "nobody": "401 missing_api_key",
        "a page that is logged out": "401 missing_api_key",
        "a revoked key": "401 invalid_api_key",
        "a key that is none": "401 invalid_api_key",
        "an expired key": "401 expired_api_key",
        "a key of other scopes": "403 missing_scope",
    }
    if who in refused:
        return refused[who]
    if who == "the owner's page without its token":
        return "let in" if method == "GET" else "403 csrf_failed"
    if who.startswith("a member's") and place.scope != Scope.CHAT:
        return "403 admins_only"
    if has_ids and (who.startswith("another") or (place.personal and not who.startswith("the owner's"))):
        return "404"
    return "let in"


def told(answer: HttpResponse, has_ids: bool) -> str:
    status = answer.status_code
    if status < 300 or (status in (400, 409) and answer.json()["error"]["code"] not in LET_NOBODY_IN):
        return "let in"
    code = answer.json()["error"]["code"]
    return "404" if status == 404 and has_ids else f"{status} {code}"


LET_NOBODY_IN = {"no_workspace"}


def ask(client: Client, method: str, path: str, place: Place, is_let_in: bool) -> HttpResponse:
    body: Any = {} if place.works and is_let_in else place.body
    if body is None:
        return client.generic(method, path)  # type: ignore[return-value]
    if place.form:
        return client.post(path, body)  # type: ignore[return-value]
    return getattr(client, method.lower())(path, body, content_type="application/json")  # type: ignore[no-any-return]


@pytest.mark.parametrize("operation", sorted(operations()))
def test_everybody_gets_what_they_may_have_and_no_more(
    operation: str,
    alice: User,
    bob: User,
    charlie: User,
    workspace: Workspace,
    elsewhere: Workspace,
    model: ServedModel,
) -> None:
    place = PLACES[operation]
    method, pattern = operation.split(" ")
    world = World(workspace, alice, model)
    # One of everything, each with the word "secret" in what is seen of it.
    ids = {name: str(make(world)) for name, make in IDS.items()}
    names = re.findall(r"{(\w+)}", pattern)
    path = pattern.format(**ids)
    everybody = Everybody(world, place, member=bob, outsider=charlie, elsewhere=elsewhere)
    wrong = []
    for who, client in everybody.clients.items():
        rule = expected(who, method, place, bool(names))
        with undone():
            answer = ask(client, method, path, place, rule == "let in")
        found = told(answer, bool(names))
        if found != rule:
            wrong.append(f"{who}: {found} instead of {rule}: {answer.content[:300]!r}")
        if rule != "let in" or who.startswith("another"):
            seen = answer.content.decode()
            # What they asked for is told them again.
            assert "secret" not in (seen.replace(ids[names[0]], "") if names else seen), who
    assert not wrong, "\n".join(wrong)
