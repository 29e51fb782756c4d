"""`manage.py claim_backups FOLDER...`: has `backup --keep` count them as this site's. See docs/backup.md."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from webapp.ops.backup.alone import site_id
from webapp.ops.backup.manifest import BackupError, read_manifest, write_manifest


class Command(BaseCommand):
    help = "Makes backups this site's, so that `backup --keep` removes them in their time."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")

    def handle(self, *args: Any, folders: list[Path], **options: Any) -> None:
        try:
            site = site_id(settings.FLYWHEEL_HOME)
            manifests = {folder: read_manifest(folder) for folder in folders}
            for folder, manifest in manifests.items():
                write_manifest(folder, msgspec.structs.replace(manifest, site=site))
        except BackupError as error:
            sys.exit(f"flywheel: {error} Nothing was claimed.")
        except OSError as error:
            sys.exit(f"flywheel: {error.filename} cannot be written: {error.strerror}.")
        self.stdout.write(f"{len(folders)} backups are this site's: `backup --keep` counts them.")
