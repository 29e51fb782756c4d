"""Deleting a person: every app says how its own part of them goes, and one transaction does it all.

Knows nothing of other apps' data; they register an eraser in their AppConfig.ready.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from allauth.usersessions.models import UserSession
from django.contrib.sessions.models import Session
from django.db import transaction
from django.db.models import Count, Q, QuerySet
from django.utils.translation import gettext as _

from webapp.accounts import sockets
from webapp.accounts.audit import record_audit
from webapp.accounts.models import ApiKey, AuditEvent, Invitation, Role, User, Workspace
from webapp.core.errors import UserError
from webapp.core.locks import lock_until_commit


@dataclass(frozen=True)
class ErasureLine:
    """One line of the report: what was erased or kept, how many, and what else to know."""

    what: str
    count: int
    note: str = ""


Eraser = Callable[[User], Iterable[ErasureLine]]
_erasers: dict[str, Eraser] = {}


def register_eraser(name: str, eraser: Eraser) -> None:
    """`eraser` deletes or anonymises what its app knows of a person, inside the erasing transaction.

    Erasers run in the order they were registered; the person's own row goes last.
    """
    if _erasers.get(name, eraser) is not eraser:
        raise ValueError(f"two erasers are called {name!r}")
    _erasers[name] = eraser


def sole_workspaces(user: User) -> QuerySet[Workspace]:
    """Workspaces nobody else is in: they go with the person."""
    return Workspace.objects.annotate(people=Count("memberships")).filter(people=1, memberships__user=user)


def orphaned_workspaces(user: User) -> QuerySet[Workspace]:
    """Workspaces that others are in and only this person owns: they would be left without an owner."""
    owners = Count("memberships", filter=Q(memberships__role=Role.OWNER), distinct=True)
    return (
        Workspace.objects.annotate(people=Count("memberships", distinct=True), owners=owners)
        .filter(people__gt=1, owners=1)
        .filter(pk__in=user.memberships.filter(role=Role.OWNER).values("workspace"))
    )


@transaction.atomic
def erase_user(*, user: User) -> list[ErasureLine]:
    """Delete a person everywhere. Raises UserError("last_owner") where others would lose their only owner."""
    for workspace_id in sorted(user.memberships.values_list("workspace_id", flat=True)):
        lock_until_commit(f"accounts.members.{workspace_id}")
    left_behind = list(orphaned_workspaces(user))
    if left_behind:
        raise UserError(
            "last_owner",
            _("You are the only owner of %(names)s, and others work there. Make one of them an owner first.")
            % {"names": ", ".join(workspace.name for workspace in left_behind)},
            status=409,
        )
    report: list[ErasureLine] = []
    for eraser in _erasers.values():
        report.extend(eraser(user))
    report.extend(_erase_account(user))
    return report


def _erase_account(user: User) -> Iterable[ErasureLine]:
    user_id = user.pk
    names = [workspace.name for workspace in sole_workspaces(user)]
    for workspace in list(sole_workspaces(user)):
        workspace.delete()
    yield ErasureLine(_("Workspaces only you were in"), len(names), ", ".join(names))

    for workspace in user.workspaces.all():
        record_audit(action="person_erased", workspace=workspace)

    # Events stay, for the others; that it was this person, and where they were, does not.
    anonymised = AuditEvent.objects.filter(actor=user).update(ip=None, actor=None)
    yield ErasureLine(_("Entries of the audit log"), anonymised, _("kept without your name and address"))

    invited = Invitation.objects.filter(Q(accepted_by=user) | Q(email__iexact=user.email)).delete()[0]
    yield ErasureLine(_("Invitations to you"), invited)

    keys = list(UserSession.objects.filter(user=user).values_list("session_key", flat=True))
    Session.objects.filter(session_key__in=keys).delete()
    yield ErasureLine(_("Logins"), len(keys))

    yield ErasureLine(_("API keys"), ApiKey.objects.filter(user=user).delete()[1].get("accounts.ApiKey", 0))

    User.objects.filter(pk=user_id).delete()
    yield ErasureLine(_("Your account"), 1)
    transaction.on_commit(partial(sockets.close_user, user_id))
