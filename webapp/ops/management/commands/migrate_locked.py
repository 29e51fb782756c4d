"""`manage.py migrate_locked`: `migrate`, by one process at a time; safe to run from every host that starts."""

from __future__ import annotations

import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import DatabaseError

from webapp.ops import schema
from webapp.ops.doctor import database
from webapp.ops.progress import Progress


class Command(BaseCommand):
    help = "Applies pending migrations, one process at a time."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            with Progress(self._write).step("Bringing the schema up to date") as now:
                applied = schema.migrate(settings.FLYWHEEL_HOME / "run" / "migrate.lock", now)
        except schema.SchemaIsNewer as error:
            sys.exit(f"flywheel: {error}")
        except DatabaseError as error:
            why = database.unusable() or f"The database could not be migrated: {str(error).strip()}"
            sys.exit(f"flywheel: {why}")
        self._write(f"Applied {len(applied)} migrations." if applied else "The schema is current.")

    def _write(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()
