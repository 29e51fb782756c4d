"""`manage.py verify_backup FOLDER`: reads every byte of a backup and says what is wrong with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from webapp.ops.backup.manifest import BackupError
from webapp.ops.backup.pace import yield_to_everybody
from webapp.ops.backup.restoring import check
from webapp.ops.progress import Progress


class Command(BaseCommand):
    help = "Says whether a backup is whole."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("folder", type=Path)

    def handle(self, *args: Any, folder: Path, **options: Any) -> None:
        yield_to_everybody()
        try:
            manifest = check(folder, Progress(self.stdout.write))
        except BackupError as error:
            sys.exit(f"flywheel: {error}")
        rows = sum(manifest.tables.values())
        self.stdout.write(
            f"Whole: {rows} rows and {len(manifest.files)} files of {manifest.created_at}, by "
            f"{manifest.made_by}."
        )
