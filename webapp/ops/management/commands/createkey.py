"""createkey: a new API key for a person, from a shell. Prints the key, alone, so that scripts can keep it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from webapp.accounts.access import current_workspace, list_workspaces
from webapp.accounts.api_keys import create_key
from webapp.accounts.models import Membership, Scope, User, Workspace
from webapp.core.errors import UserError

_LONGEST_DAYS = 36_500


class Command(BaseCommand):
    help = "Create an API key for a person and print it. It cannot be shown again."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--email", required=True, help="whose key it is: it acts as this person")
        parser.add_argument(
            "--workspace", default="", metavar="NAME_OR_ID", help="by default the first the person joined"
        )
        parser.add_argument(
            "--scopes",
            default="",
            metavar="A,B",
            help=f"of {', '.join(Scope.values)}; by default all the person may give",
        )
        parser.add_argument("--name", default="createkey", help="what the list of keys calls it")
        parser.add_argument("--expires-days", type=int, metavar="N", help="by default it does not expire")

    def handle(
        self,
        *args: Any,
        email: str,
        workspace: str,
        scopes: str,
        name: str,
        expires_days: int | None,
        **options: Any,
    ) -> None:
        user = User.objects.filter(email__iexact=email.strip()).first()
        if user is None:
            raise CommandError(f"Nobody here has the address {email!r}. createowner makes the first account.")
        if not user.is_active:
            raise CommandError(f"The account of {email} is not active: a key of theirs would open nothing.")
        if expires_days is not None and not 0 < expires_days <= _LONGEST_DAYS:
            raise CommandError(f"--expires-days is a number from 1 to {_LONGEST_DAYS}.")
        try:
            membership = _membership(user, workspace)
            _key, token = create_key(
                user=user,
                workspace=membership.workspace,
                name=name,
                scopes=_scopes(scopes, membership),
                expires_at=None if expires_days is None else timezone.now() + timedelta(days=expires_days),
            )
        except UserError as error:
            raise CommandError(error.message)
        self.stdout.write(token)


def _membership(user: User, wanted: str) -> Membership:
    if not wanted:
        return current_workspace(user, {})[1]
    found: list[Workspace] = [
        workspace for workspace in list_workspaces(user) if wanted in (workspace.name, str(workspace.pk))
    ]
    if not found:
        names = ", ".join(repr(workspace.name) for workspace in list_workspaces(user))
        raise CommandError(f"{user.email} is in no workspace called {wanted!r}. Theirs: {names or 'none'}.")
    if len(found) > 1:
        ids = ", ".join(str(workspace.pk) for workspace in found)
        raise CommandError(
            f"{user.email} is in {len(found)} workspaces called {wanted!r}. Give an id: {ids}."
        )
    return found[0].memberships.get(user=user)


def _scopes(wanted: str, membership: Membership) -> list[str]:
    if wanted:
        return [scope.strip() for scope in wanted.split(",") if scope.strip()]
    return Scope.values if membership.is_admin else [Scope.CHAT]
