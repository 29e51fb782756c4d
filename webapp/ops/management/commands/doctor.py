"""`manage.py doctor`: finds what is wrong with a site and says what to do; exit status 1 where something is."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand
from django.db import connection

from webapp.ops.doctor import configuration, database, machine, models, services, units
from webapp.ops.doctor.finding import Finding, Level, first_line, problem

PARTS = (configuration, services, models, machine, units)


class Command(BaseCommand):
    help = "Checks configuration, services, models and this machine, and says what to do."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        if connection.connection is None:
            database.answer_soon(connection)
        worst = Level.OK
        for part in PARTS:
            try:
                for finding in part.check():
                    self._say(finding)
                    worst = Level.PROBLEM if finding.level == Level.PROBLEM else worst
            except Exception as error:
                # One part that breaks must not hide what the others find.
                self._say(
                    problem(
                        part.__name__.rsplit(".", 1)[-1],
                        f"This could not be checked: {first_line(error)}",
                        "Please report it: doctor itself has a defect.",
                    )
                )
                worst = Level.PROBLEM
        if worst == Level.PROBLEM:
            sys.exit(1)

    def _say(self, finding: Finding) -> None:
        self.stdout.write(f"{finding.level:8} {finding.subject}: {finding.sentence}")
        if finding.advice:
            self.stdout.write(f"{'':8} {finding.advice}")
