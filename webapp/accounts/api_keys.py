"""API keys: made, found by what a program sends, revoked. A key is shown once; the database has only its hash."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple
from uuid import UUID

from django.db import transaction
from django.dispatch import Signal
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _

from webapp.accounts.access import AdminsOnly, get_membership
from webapp.accounts.audit import record_audit
from webapp.accounts.models import ApiKey, Membership, Scope, User, Workspace
from webapp.core import sql
from webapp.core.errors import UserError
from webapp.core.locks import lock_until_commit

# "fw-" and eight letters find the row; 256 bits behind them are the secret.
_ALPHABET, _PREFIX_LETTERS, _SECRET_BYTES = string.ascii_letters + string.digits, 8, 32
_NOTE_EVERY = timedelta(minutes=1)
MAX_KEYS = 100  # of one workspace that still open something

# Sent after the commit that revoked them, with `key_ids`: what these keys have open ends.
keys_revoked = Signal()


class ActingKey(NamedTuple):
    """A key that holds, and the membership its person acts under."""

    key: ApiKey
    membership: Membership


@transaction.atomic
def create_key(
    *,
    user: User,
    workspace: Workspace,
    name: str,
    scopes: list[str],
    expires_at: datetime | None = None,
    through: ApiKey | None = None,
    request: HttpRequest | None = None,
) -> tuple[ApiKey, str]:
    """The row, and the key itself, which nobody can be shown again. `through`: the key that asks for it, where a
    program does; what it makes opens no more than it does, and for no longer.

    Raises NotFound for outsiders, and UserError `bad_name`, `bad_scopes`, `bad_expiry`, `too_many_keys`, `admins_only`.
    """
    lock_until_commit(f"accounts.keys.{workspace.pk}")
    membership = get_membership(user, workspace.pk)
    name = " ".join(name.split())
    if not name or len(name) > 80 or not name.isprintable():
        raise UserError("bad_name", _("A key needs a name of 1 to 80 letters."), param="name")
    unknown = set(scopes) - set(Scope.values)
    if unknown or not scopes:
        raise UserError(
            "bad_scopes",
            _("A key needs at least one of these scopes: %(scopes)s.") % {"scopes": ", ".join(Scope.values)},
            param="scopes",
        )
    if not membership.is_admin and set(scopes) != {Scope.CHAT}:
        raise AdminsOnly
    now = timezone.now()
    if expires_at is not None and expires_at <= now:
        raise UserError("bad_expiry", _("A key has to expire in the future."), param="expires_at")
    if through is not None:
        _give_no_more_than(through, scopes, expires_at)
    still_open = ApiKey.objects.filter(workspace=workspace, revoked_at=None)
    if still_open.exclude(expires_at__lte=now).count() >= MAX_KEYS:
        raise UserError(
            "too_many_keys",
            _("This workspace has %(limit)s keys. Revoke one that is not used.") % {"limit": MAX_KEYS},
        )
    prefix = "fw-" + "".join(secrets.choice(_ALPHABET) for _letter in range(_PREFIX_LETTERS))
    token = f"{prefix}-{secrets.token_urlsafe(_SECRET_BYTES)}"
    key = ApiKey.objects.create(
        workspace=workspace,
        user=user,
        name=name,
        prefix=prefix,
        key_hash=_hash(token),
        scopes=[scope for scope in Scope.values if scope in scopes],
        expires_at=expires_at,
    )
    record_audit(
        action="key_created", actor=user, workspace=workspace, request=request, detail={"prefix": prefix}
    )
    return key, token


def _give_no_more_than(through: ApiKey, scopes: list[str], expires_at: datetime | None) -> None:
    missing = [scope for scope in scopes if scope not in through.scopes]
    if missing:
        raise UserError(
            "bad_scopes",
            _("A key can give only scopes that it has itself; this one lacks: %(scopes)s.")
            % {"scopes": ", ".join(missing)},
            status=403,
            param="scopes",
        )
    if through.expires_at is not None and (expires_at is None or expires_at > through.expires_at):
        raise UserError(
            "bad_expiry",
            _("A key can make none that is valid for longer than it is itself."),
            status=403,
            param="expires_at",
        )


@transaction.atomic
def revoke_key(*, key: ApiKey, by: User, request: HttpRequest | None = None) -> None:
    """From now on it opens nothing, and streams that it opened end. Revoking twice is no error."""
    if not _revoke([key.pk]):
        return
    record_audit(
        action="key_revoked",
        actor=by,
        workspace=key.workspace,
        request=request,
        detail={"prefix": key.prefix},
    )


def revoke_keys_of(*, user_id: UUID, workspace_id: UUID) -> None:
    """Of a person who leaves: were they to come back one day, their old keys should not."""
    _revoke(ApiKey.objects.filter(user_id=user_id, workspace_id=workspace_id).values_list("pk", flat=True))


def _revoke(key_ids: Iterable[UUID]) -> int:
    open_keys = ApiKey.objects.filter(pk__in=list(key_ids), revoked_at=None)
    ids = list(open_keys.values_list("pk", flat=True))
    revoked = open_keys.update(revoked_at=timezone.now())
    if revoked:
        transaction.on_commit(partial(keys_revoked.send_robust, sender=ApiKey, key_ids=ids))
    return revoked


def find_key(token: str) -> ActingKey:
    """The key a program sent, with its user, workspace and membership. Notes that it was used, once a minute.

    Raises UserError `invalid_api_key` for one that is unknown, revoked, or whose person has left or is inactive, and
    `expired_api_key`; all 401.
    """
    now = timezone.now()
    key, membership = _holder(token)
    if key is None or membership is None or not hmac.compare_digest(key.key_hash, _hash(token)):
        raise UserError(
            "invalid_api_key",
            _(
                "That API key is not valid: it is misspelt, was revoked, or its person has left the workspace."
            ),
            status=401,
        )
    if key.expires_at is not None and key.expires_at <= now:
        raise UserError(
            "expired_api_key", _("That API key has expired. Make a new one in the settings."), status=401
        )
    if key.last_used_at is None or now - key.last_used_at > _NOTE_EVERY:
        ApiKey.objects.filter(pk=key.pk).update(last_used_at=now)
    return ActingKey(key, membership)


def _holder(token: str) -> tuple[ApiKey, Membership] | tuple[None, None]:
    """The key that begins like this, with its person's membership. Every request of a program asks this."""
    if not token.isascii() or len(token) >= 100:
        return None, None
    found = sql.joined(
        {"held": ApiKey, "person": User, "place": Workspace, "member": Membership},
        "FROM accounts_apikey held JOIN accounts_user person ON person.id = held.user_id"
        " JOIN accounts_workspace place ON place.id = held.workspace_id"
        " JOIN accounts_membership member"
        " ON member.user_id = held.user_id AND member.workspace_id = held.workspace_id"
        " WHERE held.prefix = %s AND held.revoked_at IS NULL AND person.is_active",
        token[: len("fw-") + _PREFIX_LETTERS],
    )
    if not found:
        return None, None
    [[key, person, workspace, membership]] = found
    key.user = membership.user = person
    key.workspace = membership.workspace = workspace
    return key, membership


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
