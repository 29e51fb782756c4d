"""`manage.py backup`: all that a site needs to go on elsewhere, in a folder, made while it runs. See docs/backup.md."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from webapp.ops.backup.making import make_backup
from webapp.ops.backup.manifest import BackupError
from webapp.ops.backup.pace import yield_to_everybody
from webapp.ops.progress import Progress


class Command(BaseCommand):
    help = "Makes a verified backup of database, files, adapters and models, while the site runs."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--to", type=Path, help="the folder it appears in; by default $FLYWHEEL_HOME/backups"
        )
        parser.add_argument("--keep", type=int, help="remove older backups there, so that so many are left")
        parser.add_argument(
            "--without-base-models",
            action="store_true",
            help="models that can be fetched again stay out of it",
        )
        parser.add_argument("--with-secrets", action="store_true", help="the site's secret key goes into it")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["keep"] is not None and options["keep"] < 1:
            sys.exit("flywheel: --keep is the number of backups that stay, 1 at the least.")
        # Told to end, it takes away what it has begun.
        signal.signal(
            signal.SIGTERM, lambda *_: sys.exit("flywheel: The backup was stopped; nothing is left of it.")
        )
        os.umask(0o077)  # what people wrote is in it
        yield_to_everybody()
        try:
            made = make_backup(
                to=options["to"] or settings.FLYWHEEL_HOME / "backups",
                base_models=not options["without_base_models"],
                secrets=options["with_secrets"],
                keep=options["keep"],
                progress=Progress(self._write),
            )
        except BackupError as error:
            sys.exit(f"flywheel: {error}")
        except KeyboardInterrupt:
            sys.exit("flywheel: The backup was stopped; nothing is left of it.")
        manifest = made.manifest
        for path in manifest.missing:
            self._write(f"Not there, although the database names it: {path}")
        for path in manifest.elsewhere:
            self._write(f"Left where it is: {path}")
        for old in made.removed:
            self._write(f"Removed: {old}")
        if made.unclaimed:
            self._write(
                f"{len(made.unclaimed)} older backups there do not say of which site they are, and --keep leaves them. "
                "Those of this one: `python manage.py claim_backups FOLDER...`."
            )
        rows = sum(manifest.tables.values())
        self._write(
            f"{made.path}\n{rows} rows and {len(manifest.files)} files, {manifest.size / 1e6:.1f} MB in "
            f"{made.seconds:.1f} s, verified."
        )

    def _write(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()
