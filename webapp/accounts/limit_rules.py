"""Rows of limits: what a workspace as a whole, each of its people and each of its keys may use. Admins change them.

They are read for every message, so each process keeps what it read for a few seconds; that there are none, too. Knows
nothing of what is used.
"""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass, fields
from functools import partial
from time import monotonic
from typing import Any

from django.db import transaction
from django.http import HttpRequest
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from webapp.accounts import access
from webapp.accounts.audit import record_audit
from webapp.accounts.models import LimitRule, Membership, User
from webapp.core import sql
from webapp.core.errors import UserError
from webapp.core.locks import lock_until_commit

NAMES = {
    "requests_per_minute": gettext_lazy("Requests a minute"),
    "tokens_per_minute": gettext_lazy("Tokens a minute"),
    "concurrent_streams": gettext_lazy("Answers at once"),
    "monthly_tokens": gettext_lazy("Tokens a month"),
}
# From and to. Nobody limits anybody to nothing: a member is removed, a key revoked.
RANGES = {
    "requests_per_minute": (1, 1_000_000),
    "tokens_per_minute": (1, 1_000_000_000),
    "concurrent_streams": (1, 10_000),
    "monthly_tokens": (1, 1_000_000_000_000),
}
# A change is in force everywhere after this.
_KEPT_SECONDS, _MOST_KEPT = 5.0, 10_000


@dataclass(frozen=True)
class Limits:
    """The four numbers; None: no limit of this kind."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_streams: int | None = None
    monthly_tokens: int | None = None

    def __bool__(self) -> bool:
        return any(value is not None for value in asdict(self).values())


# By whose: of a person or a key their id, None of the workspace as a whole.
Rules = dict[uuid.UUID | None, Limits]
_kept: dict[uuid.UUID, tuple[float, Rules]] = {}


def rules_of(workspace_id: uuid.UUID) -> Rules:
    """A workspace's rules as they were at most a few seconds ago; empty where it has none."""
    kept = _kept.get(workspace_id)
    now = monotonic()
    if kept is None or kept[0] < now:
        if len(_kept) >= _MOST_KEPT:
            _kept.clear()
        kept = _kept[workspace_id] = (now + _KEPT_SECONDS, _read(workspace_id))
    return kept[1]


def _read(workspace_id: uuid.UUID) -> Rules:
    rows = sql.instances(
        LimitRule, "SELECT {columns} FROM accounts_limitrule WHERE workspace_id = %s", workspace_id
    )
    return {row.user_id or row.api_key_id: _limits(row) for row in rows}


def _limits(row: LimitRule) -> Limits:
    return Limits(**{field.name: getattr(row, field.name) for field in fields(Limits)})


def list_rules(membership: Membership) -> Rules:
    """All of a workspace's rules, as they are now. For admins."""
    if not membership.is_admin:
        raise access.AdminsOnly
    return _read(membership.workspace_id)


@transaction.atomic
def set_limits(
    *,
    actor: User,
    workspace_id: uuid.UUID,
    limits: Limits,
    user_id: uuid.UUID | None = None,
    api_key_id: uuid.UUID | None = None,
    request: HttpRequest | None = None,
) -> Limits:
    """Puts these limits in the place of all there were: of one of a workspace's people or keys, or, without either, of
    the workspace as a whole.

    Raises NotFound for outsiders and for whom the workspace does not have, AdminsOnly, UserError `bad_limit`.
    """
    mine = access.require_admin(actor, workspace_id)
    lock_until_commit(f"accounts.limits.{mine.workspace_id}")
    detail: dict[str, object] = {}
    if user_id is not None:
        detail["user"] = str(access.get_member(mine, user_id).user_id)
    elif api_key_id is not None:
        detail["prefix"] = access.get_key(mine, api_key_id).prefix
    _check(limits)
    whose: dict[str, Any] = {"workspace": mine.workspace, "user_id": user_id, "api_key_id": api_key_id}
    row = LimitRule.objects.filter(**whose).first()
    before = _limits(row) if row is not None else Limits()
    if before == limits:
        return limits
    if limits:
        LimitRule.objects.update_or_create(**whose, defaults=asdict(limits))
    elif row is not None:
        row.delete()
    record_audit(
        action="limits_changed",
        actor=actor,
        workspace=mine.workspace,
        request=request,
        detail=detail | {"before": asdict(before), "after": asdict(limits)},
    )
    transaction.on_commit(partial(_kept.pop, mine.workspace_id, None))
    return limits


def _check(limits: Limits) -> None:
    for name, (low, high) in RANGES.items():
        value = getattr(limits, name)
        if value is not None and not low <= value <= high:
            raise UserError(
                "bad_limit",
                _("“%(name)s” has to be between %(low)s and %(high)s, or empty for no limit.")
                % {"name": NAMES[name], "low": f"{low:,}", "high": f"{high:,}"},
                param=name,
            )
