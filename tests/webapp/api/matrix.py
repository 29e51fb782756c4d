"""The table of the authorization matrix: every operation of the API, what it needs, and what it is asked for.

A new route needs a line in PLACES, and a new kind of id in its path a line in IDS. test_matrix.py asks each as
everybody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from inference.models import ServedModel
from webapp.accounts.api_keys import create_key
from webapp.accounts.models import User, Workspace


class World(NamedTuple):
    """What the ids are of: rows of this workspace, made by this person, its owner."""

    workspace: Workspace
    person: User
    model: ServedModel


class Place(NamedTuple):
    """Of one operation."""

    scope: str
    # A body with which it gets as far as looking for what the ids in its path name. JSON, or a form with a file.
    body: dict[str, Any] | None = None
    form: bool = False
    # What is found there is its person's alone, not everybody's in the workspace.
    personal: bool = False
    # Whoever is let in would wait for a worker that is not there: they send no body, and are told so.
    works: bool = False


PLACES: dict[str, Place] = {
    "GET /v1/api_keys": Place("admin"),
    "POST /v1/api_keys": Place("admin", {"name": "k"}),
    "GET /v1/api_keys/{key_id}": Place("admin"),
    "DELETE /v1/api_keys/{key_id}": Place("admin"),
    "GET /v1/limits": Place("admin"),
    "GET /v1/limits/workspace": Place("admin"),
    "PUT /v1/limits/workspace": Place("admin", {"requests_per_minute": 1}),
    "GET /v1/limits/users/{user_id}": Place("admin"),
    "PUT /v1/limits/users/{user_id}": Place("admin", {"requests_per_minute": 1}),
    "GET /v1/limits/keys/{key_id}": Place("admin"),
    "PUT /v1/limits/keys/{key_id}": Place("admin", {"requests_per_minute": 1}),
    "GET /v1/models": Place("chat"),
    "GET /v1/models/{model}": Place("chat"),
    "GET /v1/usage": Place("admin"),
}


def _key(world: World) -> object:
    return create_key(user=world.person, workspace=world.workspace, name="secret", scopes=["chat"])[0].pk


def _model(world: World) -> object:
    return ServedModel.objects.create(
        name="ft:demo:acme:secret:1", path="x", digest="1", architecture="llama", context_length=100, parameters=1,
        size_bytes=1, workspace=world.workspace, base=world.model,
    ).name  # fmt: skip


def _user(world: World) -> object:
    return world.person.pk


IDS: dict[str, Callable[[World], object]] = {"key_id": _key, "model": _model, "user_id": _user}
