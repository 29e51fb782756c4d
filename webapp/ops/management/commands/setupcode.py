"""`manage.py setupcode`: prints the code with which an owner sets up a new site in the browser, alone on one line."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand

from webapp.accounts.models import User
from webapp.accounts.setup_code import setup_code


class Command(BaseCommand):
    help = "Prints the code that the page /setup/ asks for, while the site has no owner."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        if User.objects.exists():
            sys.exit("flywheel: This site has an owner already: log in, or ask them for an invitation.")
        self.stdout.write(setup_code())
