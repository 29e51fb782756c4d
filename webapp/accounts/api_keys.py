"""API keys: made, found by what a program sends, revoked. A key is shown once; the database has only its hash."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _

from webapp.accounts.access import AdminsOnly, get_membership
from webapp.accounts.audit import record_audit
from webapp.accounts.models import ApiKey, Membership, Scope, User, Workspace
from webapp.core.errors import UserError
from webapp.core.locks import lock_until_commit

# "fw-" and eight letters find the row; 256 bits behind them are the secret.
_ALPHABET, _PREFIX_LETTERS, _SECRET_BYTES = string.ascii_letters + string.digits, 8, 32
_NOTE_EVERY = timedelta(minutes=1)
MAX_KEYS = 100  # of one workspace that are not revoked


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
    request: HttpRequest | None = None,
) -> tuple[ApiKey, str]:
    """The row, and the key itself, which nobody can be shown again.

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
    if expires_at is not None and expires_at <= timezone.now():
        raise UserError("bad_expiry", _("A key has to expire in the future."), param="expires_at")
    if ApiKey.objects.filter(workspace=workspace, revoked_at=None).count() >= MAX_KEYS:
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


@transaction.atomic
def revoke_key(*, key: ApiKey, by: User, request: HttpRequest | None = None) -> None:
    """From now on it opens nothing, and streams that it opened end. Revoking twice is no error."""
    if not ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=timezone.now()):
        return
    record_audit(
        action="key_revoked",
        actor=by,
        workspace=key.workspace,
        request=request,
        detail={"prefix": key.prefix},
    )


def find_key(token: str) -> ActingKey:
    """The key a program sent, with its user, workspace and membership. Notes that it was used, once a minute.

    Raises UserError `invalid_api_key` for one that is unknown, revoked, or whose person has left or is inactive, and
    `expired_api_key`; all 401.
    """
    now = timezone.now()
    membership = None
    key = None
    if token.isascii() and len(token) < 100:
        found = ApiKey.objects.select_related("user", "workspace").filter(
            prefix=token[: len("fw-") + _PREFIX_LETTERS], revoked_at=None, user__is_active=True
        )
        key = found.first()
    if key is not None and hmac.compare_digest(key.key_hash, _hash(token)):
        membership = Membership.objects.filter(user_id=key.user_id, workspace_id=key.workspace_id).first()
    if key is None or membership is None:
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
    membership.workspace, membership.user = key.workspace, key.user
    return ActingKey(key, membership)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
