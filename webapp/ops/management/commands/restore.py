"""`manage.py restore FOLDER`: a backup into an empty $FLYWHEEL_HOME and an empty database. See docs/backup.md."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from webapp.ops.backup import restoring
from webapp.ops.backup.manifest import BackupError
from webapp.ops.progress import Progress


class Command(BaseCommand):
    help = "Restores a backup into an empty folder and an empty database."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("folder", type=Path)
        parser.add_argument("--check", action="store_true", help="verify it only")

    def handle(self, *args: Any, folder: Path, check: bool, **options: Any) -> None:
        os.umask(0o077)  # what people wrote is in it
        act = restoring.check if check else restoring.restore
        try:
            manifest = act(folder.expanduser().resolve(), Progress(self._write))
        except BackupError as error:
            sys.exit(f"flywheel: {error}")
        rows = sum(manifest.tables.values())
        done = "Whole" if check else "Restored and compared"
        self._write(f"{done}: {rows} rows and {len(manifest.files)} files of {manifest.created_at}.")
        for path in manifest.elsewhere:
            self._write(f"Not in the backup, it stays where it is: {path}")
        if not manifest.base_models and not check:
            self._write("Base models are not in it: fetch them with `python manage.py models pull NAME`.")
        if not check:
            self._write(
                "Start the site. Everybody logs in again; what was being written then is written anew. Where it takes "
                "the place of the one before, `python manage.py claim_backups FOLDER...` has `backup --keep` count the "
                "backups that one made."
            )

    def _write(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()
