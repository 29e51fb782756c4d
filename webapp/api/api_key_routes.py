"""/v1/api_keys: the workspace's keys, for programs that hand them out and take them back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from django.http import HttpRequest
from ninja import Query, Router, Schema
from pydantic import ConfigDict, Field

from webapp.accounts import access, api_keys
from webapp.accounts import models as accounts
from webapp.api.auth import Needs
from webapp.api.callers import caller
from webapp.api.idempotency import keeps_a_secret
from webapp.api.lists import page_by_time, place_of

router = Router(auth=Needs("admin"))
_LAST_SECOND = 253_402_300_799  # of the year 9999


class Owner(Schema):
    """Whose key it is: it acts as this person."""

    id: str
    type: Literal["user"] = "user"
    name: str


class ApiKey(Schema):
    id: str
    object: Literal["api_key"] = "api_key"
    name: str
    redacted_value: str  # the key's beginning
    scopes: list[str]
    owner: Owner
    created_at: int
    last_used_at: int | None
    expires_at: int | None
    revoked_at: int | None


class NewApiKey(ApiKey):
    value: str  # the key itself: shown here and never again


class ApiKeys(Schema):
    object: Literal["list"] = "list"
    data: list[ApiKey]
    first_id: str | None
    last_id: str | None
    has_more: bool


class RevokedApiKey(Schema):
    id: str
    object: Literal["api_key.deleted"] = "api_key.deleted"
    deleted: Literal[True] = True


class CreateApiKey(Schema):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=200)
    scopes: list[Literal["chat", "files", "training", "admin"]] = Field(["chat"], max_length=10)
    expires_at: int | None = Field(None, ge=0, le=_LAST_SECOND)  # in seconds since 1970; null: never


@router.get("", response=ApiKeys, summary="List API keys")
def list_api_keys(
    request: HttpRequest, limit: int = Query(20, ge=1, le=100), after: str | None = None
) -> Any:
    """Everybody's in the workspace, newest first, revoked ones too. `after` is the last id of the page before."""
    mine = caller(request).membership
    last = place_of(after, lambda text: access.get_key(mine, text))
    page, has_more = page_by_time([access.list_keys(mine)], after=last, limit=limit, order="desc")
    data = [_as_api_key(key) for key in page]
    return ApiKeys(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=has_more,
    )


@router.post("", response=NewApiKey, summary="Create an API key")
def create_api_key(request: HttpRequest, body: CreateApiKey) -> Any:
    """A key of the caller's own. One that is made with a key opens no more than that one does, and for no longer."""
    who = caller(request)
    key, value = api_keys.create_key(
        user=who.user,
        workspace=who.workspace,
        name=body.name,
        scopes=list(body.scopes),
        expires_at=None if body.expires_at is None else datetime.fromtimestamp(body.expires_at, UTC),
        through=who.key,
        request=request,
    )
    keeps_a_secret(request)
    return NewApiKey(value=value, **_as_api_key(key).dict())


@router.get("/{key_id}", response=ApiKey, summary="Retrieve an API key")
def retrieve_api_key(request: HttpRequest, key_id: str) -> Any:
    return _as_api_key(access.get_key(caller(request).membership, key_id))


@router.delete("/{key_id}", response=RevokedApiKey, summary="Revoke an API key")
def revoke_api_key(request: HttpRequest, key_id: str) -> Any:
    """It opens nothing from now on, and streams that it opened end. The row stays, as a record."""
    who = caller(request)
    key = access.get_key(who.membership, key_id)
    api_keys.revoke_key(key=key, by=who.user, request=request)
    return RevokedApiKey(id=str(key.pk))


def _as_api_key(key: accounts.ApiKey) -> ApiKey:
    return ApiKey(
        id=str(key.pk),
        name=key.name,
        redacted_value=f"{key.prefix}…",
        scopes=key.scopes,
        owner=Owner(id=str(key.user_id), name=key.user.display_name),
        created_at=int(key.created_at.timestamp()),
        last_used_at=_seconds(key.last_used_at),
        expires_at=_seconds(key.expires_at),
        revoked_at=_seconds(key.revoked_at),
    )


def _seconds(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())
