"""What the page of limits shows: the workspace, each member and each key, with their limits and what they use now."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Literal, NamedTuple
from uuid import UUID

from django.db.models import Count, F, Sum
from django.db.models.functions import Coalesce
from django.urls import reverse
from django.utils import timezone

from inference.models import NOBODY, Generation, UsageDay
from webapp.accounts.access import list_keys, list_members
from webapp.accounts.limit_rules import NAMES, Limits, list_rules
from webapp.accounts.limits import Current, current_use
from webapp.accounts.models import Membership
from webapp.core.errors import NotFound

Kind = Literal["workspace", "user", "key"]
# Kind, id, name, detail, address of the form.
_Whose = tuple[Kind, UUID, str, str, str]


class Cell(NamedTuple):
    """One of the four limits, beside what is used of it now."""

    name: str
    label: str
    limit: int | None
    used: int | None  # None: it is counted only where there is a limit

    @property
    def is_full(self) -> bool:
        return self.limit is not None and self.used is not None and self.used >= self.limit


class Row(NamedTuple):
    """Somebody with limits, or without."""

    kind: Kind
    id: UUID
    name: str
    detail: str
    address: str
    limits: Limits
    cells: list[Cell]


def workspace_row(mine: Membership) -> Row:
    return next(
        _rows(mine, [("workspace", mine.workspace_id, mine.workspace.name, "", reverse("limits_all"))])
    )


def member_rows(mine: Membership) -> list[Row]:
    people: list[_Whose] = [
        (
            "user",
            member.user_id,
            member.user.display_name,
            member.user.email,
            reverse("limits_member", args=[member.user_id]),
        )
        for member in list_members(mine)
    ]
    return list(_rows(mine, people))


def key_rows(mine: Membership) -> list[Row]:
    """Of keys that open something."""
    keys: list[_Whose] = [
        (
            "key",
            key.pk,
            key.name,
            f"{key.prefix}… · {key.user.display_name}",
            reverse("limits_key", args=[key.pk]),
        )
        for key in list_keys(mine).filter(revoked_at=None).exclude(expires_at__lte=timezone.now())
    ]
    return list(_rows(mine, keys))


def find_row(rows: list[Row], id_: str, what: str) -> Row:
    """Raises NotFound."""
    for row in rows:
        if str(row.id) == id_:
            return row
    raise NotFound(what)


class _Uses(NamedTuple):
    """By whose they are; None: the workspace's as a whole."""

    minute: dict[UUID | None, Current]
    streams: dict[UUID | None, int]
    month: dict[UUID | None, int]


def _rows(mine: Membership, whose: list[_Whose]) -> Iterator[Row]:
    rules = list_rules(mine)
    ids = [None if kind == "workspace" else id_ for kind, id_, *_rest in whose]
    uses = _Uses(
        current_use(mine.workspace_id, [one for one in ids if one in rules]),
        _streams(mine.workspace_id),
        _month(mine.workspace_id, timezone.now().date()),
    )
    for (kind, id_, name, detail, address), of in zip(whose, ids, strict=True):
        limits = rules.get(of, Limits())
        yield Row(kind, id_, name, detail, address, limits, _cells(limits, uses, of))


def _cells(limits: Limits, uses: _Uses, of: UUID | None) -> list[Cell]:
    minute = uses.minute.get(of)
    used = {
        "requests_per_minute": minute.requests if minute and limits.requests_per_minute else None,
        "tokens_per_minute": minute.tokens if minute and limits.tokens_per_minute else None,
        "concurrent_streams": uses.streams.get(of, 0),
        "monthly_tokens": uses.month.get(of, 0),
    }
    return [Cell(name, str(label), getattr(limits, name), used[name]) for name, label in NAMES.items()]


def _streams(workspace_id: UUID) -> dict[UUID | None, int]:
    """Answers that are being written, a call of several choices as one; titles are nobody's."""
    unfinished = Generation.objects.filter(
        workspace_id=workspace_id, state__in=(Generation.State.QUEUED, Generation.State.RUNNING)
    ).exclude(purpose="title")
    answers = Count(Coalesce("call_id", "id"), distinct=True)
    found: dict[UUID | None, int] = {None: unfinished.aggregate(n=answers)["n"]}
    for by in ("user_id", "api_key_id"):
        found |= {
            row[by]: row["n"] for row in unfinished.exclude(**{by: None}).values(by).annotate(n=answers)
        }
    return found


def _month(workspace_id: UUID, today: date) -> dict[UUID | None, int]:
    days = UsageDay.objects.filter(workspace_id=workspace_id, day__gte=today.replace(day=1)).order_by()
    tokens = Sum(F("prompt_tokens") + F("completion_tokens"), default=0)
    found: dict[UUID | None, int] = {None: days.aggregate(n=tokens)["n"]}
    for by in ("user_id", "api_key_id"):
        found |= {row[by]: row["n"] for row in days.exclude(**{by: NOBODY}).values(by).annotate(n=tokens)}
    return found
