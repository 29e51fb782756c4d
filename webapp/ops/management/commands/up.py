"""`manage.py up`: runs the whole site on this machine until it is told to stop. `make run` ends here."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand

from webapp.ops.progress import Progress
from webapp.ops.runner import CannotRun, Runner


class Command(BaseCommand):
    help = "Runs the whole site: database, broker, web, workers and beat, under one supervisor."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        def write(text: str) -> None:
            self.stdout.write(text)
            self.stdout.flush()

        try:
            Runner(Progress(write)).run()
        except CannotRun as error:
            sys.exit(f"flywheel: {error}")
