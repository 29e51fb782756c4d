"""createowner: the first account and workspace, from a shell. Safe to repeat."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.validators import validate_email

from webapp.accounts.models import User
from webapp.accounts.services import create_owner
from webapp.core.errors import UserError


class Command(BaseCommand):
    help = (
        "Create the site's owner and their workspace. Does nothing where the address has an account already."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--email", required=True)
        parser.add_argument("--password", required=True)
        parser.add_argument("--name", default="", help="what others see; by default the address's first part")
        parser.add_argument(
            "--workspace", default="", metavar="NAME", help="by default named after the owner"
        )

    def handle(
        self, *args: Any, email: str, password: str, name: str, workspace: str, **options: Any
    ) -> None:
        try:
            validate_email(email)
        except ValidationError:
            raise CommandError(f"{email!r} is not an email address.")
        if not password:
            raise CommandError("The password is empty.")
        if User.objects.filter(email__iexact=email).exists():
            self.stdout.write(f"{email} has an account already: nothing was changed, its password included.")
            return
        try:
            validate_password(password, User(email=email, name=name))
        except ValidationError as error:
            # Whoever has a shell here may do as they like; they should know.
            self.stderr.write(self.style.WARNING("A weak password: " + " ".join(error.messages)))
        try:
            _user, made = create_owner(email=email, password=password, name=name, workspace_name=workspace)
        except UserError as error:
            if error.code != "already_set_up":
                raise CommandError(error.message)
            # Two of these at once, with the same address: the other one did it.
            if not User.objects.filter(email__iexact=email).exists():
                raise CommandError(
                    "This site has an owner already: they can invite others from the workspace's settings."
                )
        else:
            self.stdout.write(f"{email} owns this site and the workspace {made.name!r}.")
