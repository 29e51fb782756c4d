"""Invitations: links that let whoever holds one join a workspace, once, within seven days.

Only the hash of a link's token is stored, so a copy of the database invites nobody; looking it up by hash takes
the same time whatever part of it is right.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from datetime import timedelta

from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _

from webapp.accounts import access
from webapp.accounts.audit import record_audit
from webapp.accounts.models import Invitation, Membership, User
from webapp.accounts.services import clean_role
from webapp.core.errors import UserError
from webapp.core.locks import lock_until_commit

LIFETIME = timedelta(days=7)
MAX_OPEN = 200
SESSION_KEY = "invitation"


class InvitationGone(UserError):
    """Used, revoked, expired or never made: a stranger with a link cannot tell which."""

    def __init__(self) -> None:
        super().__init__(
            "invitation_gone",
            _("This invitation has been used, has expired or was withdrawn. Ask for a new one."),
            status=404,
        )


def token_hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


@transaction.atomic
def invite(
    *,
    actor: User,
    workspace_id: uuid.UUID | str,
    role: str,
    email: str = "",
    request: HttpRequest | None = None,
) -> tuple[Invitation, str]:
    """A new invitation and its token, which exists nowhere else from then on."""
    mine = access.require_admin(actor, workspace_id)
    granted = clean_role(role, actor=mine)
    if Invitation.objects.filter(workspace=mine.workspace, accepted_at=None).count() >= MAX_OPEN:
        raise UserError(
            "too_many", _("There are %(limit)s open invitations. Revoke some first.") % {"limit": MAX_OPEN}
        )
    token = secrets.token_urlsafe(32)
    invitation = Invitation.objects.create(
        workspace=mine.workspace,
        role=granted,
        email=email.strip().lower(),
        token_hash=token_hash(token),
        invited_by=actor,
        expires_at=timezone.now() + LIFETIME,
    )
    record_audit(
        action="invitation_made",
        actor=actor,
        workspace=mine.workspace,
        request=request,
        detail={"invitation": str(invitation.pk), "role": granted.value},
    )
    return invitation, token


@transaction.atomic
def revoke_invitation(
    *,
    actor: User,
    workspace_id: uuid.UUID | str,
    invitation_id: uuid.UUID | str,
    request: HttpRequest | None = None,
) -> None:
    mine = access.require_admin(actor, workspace_id)
    invitation = access.get_invitation(mine, invitation_id)
    record_audit(
        action="invitation_revoked",
        actor=actor,
        workspace=mine.workspace,
        request=request,
        detail={"invitation": str(invitation.pk), "role": invitation.role},
    )
    invitation.delete()


def find_invitation(hashed: str | None) -> Invitation:
    """The invitation whose token has this hash and may still be used. Raises InvitationGone."""
    invitation = (
        Invitation.objects.select_related("workspace", "invited_by")
        .filter(token_hash=hashed or "", accepted_at=None, expires_at__gt=timezone.now())
        .first()
    )
    if invitation is None:
        raise InvitationGone
    return invitation


def check_invited(invitation: Invitation, email: str) -> None:
    """Raises UserError where the invitation names another address."""
    if invitation.email and invitation.email != email.strip().lower():
        raise UserError(
            "invited_someone_else",
            _(
                "This invitation is for another email address. Log in with that one, or ask for your own invitation."
            ),
            status=403,
        )


@transaction.atomic
def accept_invitation(*, user: User, hashed: str, request: HttpRequest | None = None) -> Membership:
    """Join the workspace. A member who follows a link again keeps role and leaves the link to others."""
    lock_until_commit(f"accounts.invitation.{hashed}")
    invitation = find_invitation(hashed)
    check_invited(invitation, user.email)
    lock_until_commit(f"accounts.members.{invitation.workspace_id}")
    membership, joined = Membership.objects.get_or_create(
        workspace=invitation.workspace, user=user, defaults={"role": invitation.role}
    )
    if joined:
        invitation.accepted_at, invitation.accepted_by = timezone.now(), user
        invitation.save(update_fields=["accepted_at", "accepted_by"])
        record_audit(
            action="invitation_accepted",
            actor=user,
            workspace=invitation.workspace,
            request=request,
            detail={"invitation": str(invitation.pk), "role": invitation.role},
        )
    return membership
