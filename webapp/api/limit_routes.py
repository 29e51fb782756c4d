"""/v1/limits: what the workspace, its members and its keys may use, beside what they use now."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from django.http import HttpRequest
from django.utils.translation import gettext as _
from ninja import Router, Schema
from pydantic import ConfigDict, Field

from webapp.accounts import limit_rules
from webapp.accounts.limit_rules import RANGES
from webapp.api.auth import Needs
from webapp.api.callers import caller
from webapp.api.limit_page import Row, find_row, key_rows, member_rows, workspace_row

router = Router(auth=Needs("admin"))


def _number(name: str) -> Any:
    low, high = RANGES[name]
    return Field(None, ge=low, le=high, strict=True)


class Numbers(Schema):
    """The four limits; null: no limit of this kind."""

    model_config = ConfigDict(extra="forbid")

    requests_per_minute: int | None = _number("requests_per_minute")
    tokens_per_minute: int | None = _number("tokens_per_minute")
    concurrent_streams: int | None = _number("concurrent_streams")
    monthly_tokens: int | None = _number("monthly_tokens")


class Used(Schema):
    """Of the last minute, now, and of this month; null: counted only where there is such a limit."""

    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent_streams: int | None
    monthly_tokens: int | None


class Limit(Schema):
    object: Literal["limit"] = "limit"
    type: Literal["workspace", "user", "key"]
    id: str  # of the workspace, the person or the key
    name: str
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent_streams: int | None
    monthly_tokens: int | None
    used: Used


class AllLimits(Schema):
    object: Literal["list"] = "list"
    data: list[Limit]


@router.get("", response=AllLimits, summary="List limits")
def list_limits(request: HttpRequest) -> Any:
    """The workspace's, then its members', then its keys'; those without any limit, too."""
    mine = caller(request).membership
    return AllLimits(
        data=[_as_limit(row) for row in (workspace_row(mine), *member_rows(mine), *key_rows(mine))]
    )


@router.get("/workspace", response=Limit, summary="Retrieve the workspace's limits")
def retrieve_workspace_limits(request: HttpRequest) -> Any:
    return _as_limit(workspace_row(caller(request).membership))


@router.put("/workspace", response=Limit, summary="Set the workspace's limits")
def set_workspace_limits(request: HttpRequest, body: Numbers) -> Any:
    """Of all members and keys together. What is left out has no limit from now on."""
    _set(request, body)
    return _as_limit(workspace_row(caller(request).membership))


@router.get("/users/{user_id}", response=Limit, summary="Retrieve a member's limits")
def retrieve_member_limits(request: HttpRequest, user_id: str) -> Any:
    return _as_limit(_member(request, user_id))


@router.put("/users/{user_id}", response=Limit, summary="Set a member's limits")
def set_member_limits(request: HttpRequest, user_id: str, body: Numbers) -> Any:
    """Of one member, with all their keys together. What is left out has no limit from now on."""
    _set(request, body, user_id=_member(request, user_id).id)
    return _as_limit(_member(request, user_id))


@router.get("/keys/{key_id}", response=Limit, summary="Retrieve a key's limits")
def retrieve_key_limits(request: HttpRequest, key_id: str) -> Any:
    return _as_limit(_key(request, key_id))


@router.put("/keys/{key_id}", response=Limit, summary="Set a key's limits")
def set_key_limits(request: HttpRequest, key_id: str, body: Numbers) -> Any:
    """Of one key alone; what it uses is its member's, too. What is left out has no limit from now on."""
    _set(request, body, api_key_id=_key(request, key_id).id)
    return _as_limit(_key(request, key_id))


def _member(request: HttpRequest, user_id: str) -> Row:
    return find_row(member_rows(caller(request).membership), user_id, _("That member"))


def _key(request: HttpRequest, key_id: str) -> Row:
    return find_row(key_rows(caller(request).membership), key_id, _("That key"))


def _set(
    request: HttpRequest, body: Numbers, *, user_id: UUID | None = None, api_key_id: UUID | None = None
) -> None:
    who = caller(request)
    limit_rules.set_limits(
        actor=who.user,
        workspace_id=who.workspace.pk,
        user_id=user_id,
        api_key_id=api_key_id,
        limits=limit_rules.Limits(**body.dict()),
        request=request,
    )


def _as_limit(row: Row) -> Limit:
    numbers: dict[str, Any] = {cell.name: cell.limit for cell in row.cells}
    used = Used(**{cell.name: cell.used for cell in row.cells})
    return Limit(type=row.kind, id=str(row.id), name=row.name, used=used, **numbers)
