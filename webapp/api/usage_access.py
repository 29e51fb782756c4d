"""Permission-checked reads of usage: owners and admins see the whole workspace's, everybody else their own part."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Any
from uuid import UUID

from django.db.models import F, QuerySet, Sum
from django.utils.translation import gettext as _

from inference.models import NOBODY, UsageDay
from inference.usage import used_since
from webapp.accounts.models import ApiKey, Membership, User

SUMS = {
    "asked": Sum("requests"),
    "read": Sum("prompt_tokens"),
    "written": Sum("completion_tokens"),
}


def list_usage(membership: Membership, first: date, last: date) -> QuerySet[UsageDay]:
    """From the first day to the last, both of them UTC's and counted."""
    days = UsageDay.objects.filter(workspace_id=membership.workspace_id, day__range=(first, last))
    return days if membership.is_admin else days.filter(user_id=membership.user_id)


def summed(days: QuerySet[UsageDay], *by: str) -> QuerySet[UsageDay, dict[str, Any]]:
    """Rows of `by` and of the sums `asked`, `read` and `written`, most tokens first."""
    rows = days.order_by().values(*by).annotate(**SUMS)
    return rows.order_by((F("read") + F("written")).desc(), *by)


def tokens_of_month(membership: Membership, today: date) -> tuple[int, int]:
    """Of the workspace (0 for those who may not know) and of the person, since the month began."""
    first = today.replace(day=1)
    whole = used_since(first, membership.workspace_id, None, None) if membership.is_admin else 0
    return whole, used_since(first, membership.workspace_id, membership.user_id, None)


def people_named(ids: Iterable[UUID]) -> dict[UUID, str]:
    """What rows of usage call people by. Whoever has left is still named to those who knew them."""
    named = {user.pk: user.display_name for user in User.objects.filter(pk__in=set(ids))}
    nobody = _("Nobody: titles, visitors, people who are gone")
    return {id_: nobody if id_ == NOBODY else named.get(id_, nobody) for id_ in ids}


def keys_named(ids: Iterable[UUID]) -> dict[UUID, str]:
    rows = ApiKey.objects.filter(pk__in=set(ids))
    named = {key.pk: f"{key.name} ({key.prefix}…)" for key in rows}
    without, gone = _("Without a key: on this site's pages"), _("A key that is gone")
    return {id_: without if id_ == NOBODY else named.get(id_, gone) for id_ in ids}
