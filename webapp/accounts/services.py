"""Every write to people's workspaces: made, named, joined, left. Pages and commands call these, nothing else writes.

Who may do what is decided here, on rows read inside the transaction that changes them.
"""

from __future__ import annotations

import uuid
from collections.abc import MutableMapping
from datetime import datetime
from functools import partial
from typing import Any

from allauth.account.models import EmailAddress
from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import transaction
from django.http import HttpRequest
from django.utils.translation import gettext as _

from webapp.accounts import access, api_keys, sockets
from webapp.accounts.audit import record_audit
from webapp.accounts.models import AuditEvent, Invitation, Membership, Role, User, Workspace
from webapp.accounts.setup_code import forget_setup_code
from webapp.core.errors import UserError
from webapp.core.locks import lock_until_commit

MAX_WORKSPACES_OWNED = 20
# Who may grant or take a role: nobody above their own.
RANK = {Role.MEMBER: 0, Role.ADMIN: 1, Role.OWNER: 2}


def clean_workspace_name(name: str) -> str:
    name = " ".join(name.split())
    if not name or len(name) > 80 or not name.isprintable():
        raise UserError("bad_name", _("A workspace needs a name of 1 to 80 letters."))
    return name


@transaction.atomic
def create_owner(
    *,
    email: str,
    password: str,
    name: str = "",
    workspace_name: str = "",
    request: HttpRequest | None = None,
) -> tuple[User, Workspace]:
    """The first account of an empty site, and its workspace. Raises UserError("already_set_up") afterwards."""
    lock_until_commit("accounts.create_owner")
    if User.objects.exists():
        raise UserError("already_set_up", _("This site already has an owner. Log in instead."), status=409)
    email = email.strip().lower()
    user = User.objects.create_user(email, password, name=name.strip(), is_staff=True)
    # Whoever sets the site up vouches for the address: there may be no mail yet to verify it with.
    EmailAddress.objects.create(user=user, email=email, primary=True, verified=True)
    workspace = _add_workspace(user, workspace_name or own_workspace_name(user))
    record_audit(action="owner_created", actor=user, workspace=workspace, request=request)
    transaction.on_commit(forget_setup_code)
    return user, workspace


@transaction.atomic
def set_operator(*, email: str, is_operator: bool) -> None:
    """Who sees the site's status page. Raises UserError `unknown_person`, `last_operator`."""
    lock_until_commit("accounts.set_operator")
    user = User.objects.filter(email__iexact=email.strip()).first()
    if user is None:
        raise UserError("unknown_person", _("Nobody here has the address %(email)s.") % {"email": email})
    if user.is_staff == is_operator:
        return
    if not is_operator and not User.objects.filter(is_staff=True).exclude(pk=user.pk).exists():
        raise UserError("last_operator", _("That is the only operator: make another person one first."))
    user.is_staff = is_operator
    user.save(update_fields=["is_staff"])
    record_audit(action="operator_made" if is_operator else "operator_removed", actor=user)


def rename_person(*, user: User, name: str) -> None:
    user.name = name
    user.save(update_fields=["name"])


def own_workspace_name(user: User) -> str:
    name = "".join(letter for letter in user.display_name if letter.isprintable())
    return _("%(name)s's workspace") % {"name": name[:60]}


def _add_workspace(user: User, name: str) -> Workspace:
    workspace = Workspace.objects.create(name=clean_workspace_name(name))
    Membership.objects.create(workspace=workspace, user=user, role=Role.OWNER)
    return workspace


def may_create_workspace(*, user: User) -> bool:
    """Where sign-up is not open, a workspace of one's own would be a way round it: its owner invites anybody."""
    if settings.SIGNUP == "open" or user.is_staff:
        return True
    return Membership.objects.filter(user=user, role=Role.OWNER).exists()


@transaction.atomic
def create_workspace(*, user: User, name: str, request: HttpRequest | None = None) -> Workspace:
    name = clean_workspace_name(name)
    lock_until_commit(f"accounts.user.{user.pk}")
    if not may_create_workspace(user=user):
        raise UserError(
            "not_allowed",
            _("Only the site's owner makes workspaces here. Ask for an invitation."),
            status=403,
        )
    if Membership.objects.filter(user=user, role=Role.OWNER).count() >= MAX_WORKSPACES_OWNED:
        raise UserError(
            "too_many",
            _("You own %(limit)s workspaces, which is the most.") % {"limit": MAX_WORKSPACES_OWNED},
        )
    workspace = _add_workspace(user, name)
    record_audit(action="workspace_created", actor=user, workspace=workspace, request=request)
    return workspace


@transaction.atomic
def rename_workspace(
    *, actor: User, workspace_id: uuid.UUID | str, name: str, request: HttpRequest | None = None
) -> Workspace:
    workspace = access.require_admin(actor, workspace_id).workspace
    old, workspace.name = workspace.name, clean_workspace_name(name)
    workspace.save(update_fields=["name"])
    record_audit(
        action="workspace_renamed",
        actor=actor,
        workspace=workspace,
        request=request,
        detail={"from": old, "to": workspace.name},
    )
    return workspace


def switch_workspace(
    *, user: User, session: MutableMapping[str, Any], workspace_id: uuid.UUID | str
) -> Workspace:
    """Make it the current workspace of this login session. Raises NotFound for one the person is not in."""
    workspace = access.get_workspace(user, workspace_id)
    session[access.WORKSPACE_SESSION_KEY] = str(workspace.pk)
    return workspace


def _lock_members(workspace_id: uuid.UUID) -> None:
    """Two owners who demote each other at once must not both succeed: changes of members wait for one another."""
    lock_until_commit(f"accounts.members.{workspace_id}")


def _keep_an_owner(membership: Membership) -> None:
    owners = Membership.objects.filter(workspace_id=membership.workspace_id, role=Role.OWNER)
    if membership.role == Role.OWNER and owners.count() == 1:
        raise UserError(
            "last_owner",
            _("A workspace always has an owner. Make someone else an owner first, then try again."),
            status=409,
        )


def _require_rank(actor: Membership, *roles: str) -> None:
    if not actor.is_admin or any(RANK[Role(role)] > RANK[Role(actor.role)] for role in roles):
        raise UserError(
            "not_allowed", _("Only an owner of the workspace can do this. Ask one of them."), status=403
        )


def clean_role(role: str, *, actor: Membership) -> Role:
    if role not in Role.values:
        raise UserError("bad_role", _("There is no such role. Choose owner, admin or member."))
    _require_rank(actor, role)
    return Role(role)


@transaction.atomic
def change_role(
    *,
    actor: User,
    workspace_id: uuid.UUID | str,
    user_id: uuid.UUID | str,
    role: str,
    request: HttpRequest | None = None,
) -> Membership:
    mine = access.require_admin(actor, workspace_id)
    _lock_members(mine.workspace_id)
    mine.refresh_from_db()
    member = access.get_member(mine, user_id)
    new = clean_role(role, actor=mine)
    _require_rank(mine, member.role)
    if new == member.role:
        return member
    _keep_an_owner(member)
    old, member.role = member.role, new
    member.save(update_fields=["role"])
    record_audit(
        action="role_changed",
        actor=actor,
        workspace=mine.workspace,
        request=request,
        detail={"user": str(member.user_id), "from": old, "to": new.value},
    )
    return member


@transaction.atomic
def remove_member(
    *,
    actor: User,
    workspace_id: uuid.UUID | str,
    user_id: uuid.UUID | str,
    request: HttpRequest | None = None,
) -> None:
    mine = access.require_admin(actor, workspace_id)
    _lock_members(mine.workspace_id)
    mine.refresh_from_db()
    member = access.get_member(mine, user_id)
    _require_rank(mine, member.role)
    _end_membership(member, "member_removed", actor, request)


@transaction.atomic
def leave_workspace(*, user: User, workspace_id: uuid.UUID | str, request: HttpRequest | None = None) -> None:
    _lock_members(access.get_membership(user, workspace_id).workspace_id)
    _end_membership(access.get_membership(user, workspace_id), "member_left", user, request)


def _end_membership(member: Membership, action: str, actor: User, request: HttpRequest | None) -> None:
    _keep_an_owner(member)
    user_id, workspace = member.user_id, member.workspace
    member.delete()
    api_keys.revoke_keys_of(user_id=user_id, workspace_id=workspace.pk)
    record_audit(
        action=action, actor=actor, workspace=workspace, request=request, detail={"user": str(user_id)}
    )
    transaction.on_commit(partial(sockets.close_member, user_id, workspace.pk))


# --- what has been kept for long enough ----------------------------------------------------------------------
def delete_audit_events(*, ids: list[int]) -> None:
    AuditEvent.objects.filter(pk__in=ids).delete()


def delete_invitations(*, ids: list[uuid.UUID]) -> None:
    Invitation.objects.filter(pk__in=ids).delete()


def delete_expired_log_ins(*, now: datetime) -> None:
    """Sessions whose time is over, and what people see of them among their active ones."""
    over = Session.objects.filter(expire_date__lt=now)
    while keys := list(over.values_list("session_key", flat=True)[:500]):
        with transaction.atomic():
            UserSession.objects.filter(session_key__in=keys).delete()
            Session.objects.filter(session_key__in=keys).delete()
