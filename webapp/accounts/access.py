"""Permission-checked reads of people and workspaces: the only way the rest of the site fetches them.

Whatever a person may not see does not exist for them: these raise NotFound, never "forbidden".
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from django.contrib.auth.models import AnonymousUser
from django.db.models import Exists, OuterRef, Prefetch, Q, QuerySet
from django.utils.translation import gettext as _

from webapp.accounts.models import ApiKey, AuditEvent, Invitation, Membership, User, Workspace
from webapp.core.errors import NotFound, UserError
from webapp.core.ids import as_uuid

WORKSPACE_SESSION_KEY = "workspace"
NOBODY = uuid.UUID(int=0)  # what no row has: text that is no id finds nothing


class NoWorkspace(UserError):
    """The person is in no workspace at all; pages lead to the form that makes one."""

    def __init__(self) -> None:
        super().__init__(
            "no_workspace", _("You are not in a workspace. Create one, or ask for an invitation."), status=409
        )


class AdminsOnly(UserError):
    """The person is a member and so may know the workspace exists; the act needs more than that."""

    def __init__(self) -> None:
        super().__init__(
            "admins_only",
            _("Only owners and admins of the workspace can do this. Ask one of them."),
            status=403,
        )


def list_workspaces(user: User) -> QuerySet[Workspace]:
    """The workspaces `user` is in, by name; each has `my_membership` (a list of one)."""
    mine = Prefetch("memberships", queryset=Membership.objects.filter(user=user), to_attr="my_membership")
    return user.workspaces.order_by("name", "created_at").prefetch_related(mine)


def get_membership(user: User | AnonymousUser, workspace_id: uuid.UUID | str) -> Membership:
    """`user`'s membership, with its workspace loaded. Raises NotFound for everyone else."""
    membership = None
    if user.is_authenticated:
        mine = Membership.objects.select_related("workspace").filter(user_id=user.pk)
        membership = mine.filter(workspace_id=as_uuid(workspace_id) or NOBODY).first()
    if membership is None:
        raise NotFound(_("That workspace"))
    return membership


def get_workspace(user: User | AnonymousUser, workspace_id: uuid.UUID | str) -> Workspace:
    return get_membership(user, workspace_id).workspace


def require_admin(user: User | AnonymousUser, workspace_id: uuid.UUID | str) -> Membership:
    """The membership of an owner or admin. Raises NotFound for outsiders, AdminsOnly for other members."""
    membership = get_membership(user, workspace_id)
    if not membership.is_admin:
        raise AdminsOnly
    return membership


def current_workspace(user: User | AnonymousUser, session: Mapping[str, Any]) -> tuple[Workspace, Membership]:
    """The workspace chosen in this login session, else the first the person joined.

    `session` may be a Django session or any mapping. Raises NoWorkspace where the person is in none.
    """
    if not user.is_authenticated:
        raise NotFound(_("That workspace"))
    memberships = list(
        Membership.objects.select_related("workspace").filter(user_id=user.pk).order_by("created_at", "id")
    )
    if not memberships:
        raise NoWorkspace
    chosen = as_uuid(session.get(WORKSPACE_SESSION_KEY))
    membership = next((m for m in memberships if m.workspace_id == chosen), memberships[0])
    return membership.workspace, membership


def list_members(membership: Membership) -> QuerySet[Membership]:
    """Everyone in the workspace of `membership`; any member may see who else is there."""
    return (
        Membership.objects.filter(workspace_id=membership.workspace_id)
        .select_related("user")
        .order_by("created_at", "id")
    )


def get_member(membership: Membership, user_id: uuid.UUID | str) -> Membership:
    """Another person's membership in the same workspace. Raises NotFound."""
    found = list_members(membership).filter(user_id=as_uuid(user_id) or NOBODY).first()
    if found is None:
        raise NotFound(_("That member"))
    return found


def list_invitations(membership: Membership) -> QuerySet[Invitation]:
    """Invitations of the workspace that nobody has accepted yet, newest first. For admins."""
    if not membership.is_admin:
        raise AdminsOnly
    return (
        Invitation.objects.filter(workspace_id=membership.workspace_id, accepted_at=None)
        .select_related("invited_by")
        .order_by("-created_at")
    )


def get_invitation(membership: Membership, invitation_id: uuid.UUID | str) -> Invitation:
    found = list_invitations(membership).filter(id=as_uuid(invitation_id) or NOBODY).first()
    if found is None:
        raise NotFound(_("That invitation"))
    return found


def list_keys(membership: Membership) -> QuerySet[ApiKey]:
    """Keys of the workspace, newest first, revoked ones too: for admins everybody's, for others their own."""
    keys = ApiKey.objects.filter(workspace_id=membership.workspace_id).select_related("user", "workspace")
    return keys if membership.is_admin else keys.filter(user_id=membership.user_id)


def get_key(membership: Membership, key_id: uuid.UUID | str) -> ApiKey:
    """One of `list_keys`, which are those this person may revoke. Raises NotFound."""
    found = list_keys(membership).filter(id=as_uuid(key_id) or NOBODY).first()
    if found is None:
        raise NotFound(_("That key"))
    return found


def list_audit_events(membership: Membership) -> QuerySet[AuditEvent]:
    """What was done in the workspace, and its members' logins since they joined; newest first. For admins."""
    if not membership.is_admin:
        raise AdminsOnly
    joined = Membership.objects.filter(
        workspace_id=membership.workspace_id, user=OuterRef("actor"), created_at__lte=OuterRef("at")
    )
    return (
        AuditEvent.objects.filter(
            Q(workspace_id=membership.workspace_id) | Q(Exists(joined), workspace=None, actor__isnull=False)
        )
        .select_related("actor")
        .order_by("-at", "-id")
    )
