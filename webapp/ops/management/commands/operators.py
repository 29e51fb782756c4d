"""operators: who sees the site's status page, and may be shown what is wrong with it."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from webapp.accounts.models import User
from webapp.accounts.services import set_operator
from webapp.core.errors import UserError


class Command(BaseCommand):
    help = "List the site's operators, who see its status page; or make a person one, or none any more."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        change = parser.add_mutually_exclusive_group()
        change.add_argument("--add", metavar="EMAIL", help="of a person who has an account")
        change.add_argument("--remove", metavar="EMAIL", help="they keep their account, and their workspaces")

    def handle(self, *args: Any, add: str | None, remove: str | None, **options: Any) -> None:
        if email := add or remove:
            try:
                set_operator(email=email, is_operator=add is not None)
            except UserError as error:
                raise CommandError(error.message)
        for email in User.objects.filter(is_staff=True).order_by("email").values_list("email", flat=True):
            self.stdout.write(email)
