"""`manage.py retain`: deletes what has been kept for as long as RETENTION_..._DAYS say; beat does so every hour."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from webapp.core import clock
from webapp.ops.retention import retain


class Command(BaseCommand):
    help = "Deletes what has been kept for long enough, as the settings RETENTION_..._DAYS say."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only say how much would go")

    def handle(self, *args: Any, dry_run: bool, **options: Any) -> None:
        done = "would be deleted" if dry_run else "deleted"
        for what, days, count in retain(now=clock.now(), dry_run=dry_run):
            self.stdout.write(f"{count} {what}, older than {days} days: {done}")
