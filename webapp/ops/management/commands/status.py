"""`manage.py status`: what the operator's page says, for a terminal; exit status 1 where something does not work."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from training.models import Job
from training.sizes import spoken_size
from webapp.ops import status_words
from webapp.ops.doctor import database
from webapp.ops.doctor.finding import first_line
from webapp.ops.status import Status, read_status
from webapp.ops.status_views import doing_of, state_of


class Command(BaseCommand):
    help = "Says how the site is doing: processes, queues, models, fine-tunes, storage, what needs attention."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            status = read_status(is_command=True)
        except DatabaseError as error:
            raise CommandError(database.wrong() or f"The database could not be asked: {first_line(error)}")
        found = status_words.findings(status)
        for finding in found:
            self.stdout.write(f"{'problem' if finding.is_problem else 'warning':8} {finding.sentence}")
            self.stdout.write(f"{'':8} {finding.advice}")
        for title, lines in self._parts(status):
            self.stdout.write(f"\n{title}")
            for line in lines:
                self.stdout.write(f"  {line}")
        if any(finding.is_problem for finding in found):
            sys.exit(1)

    def _parts(self, status: Status) -> list[tuple[str, list[str]]]:
        processes = [
            f"{row.kind:10} {row.host} {row.pid}  {state_of(row).word}  {doing_of(row)}".rstrip()
            for row in status.processes
        ]
        queues = [
            f"{one.name:10} {one.depth} tasks, oldest {one.oldest:.0f} s" for one in status.queues or []
        ]
        replies = f"{status.running} being written, {status.queued} wait, oldest {status.oldest:.0f} s"
        models = [
            f"{model.name}: loaded by {model.processes}, {model.generations} replies"
            for model in status.models
        ]
        jobs = [f"{state.label}: {status.jobs[state]}" for state in Job.State if status.jobs.get(state)]
        storage = [
            *(f"{d.host}: {spoken_size(d.free)} of {spoken_size(d.size)} free" for d in status.disks),
            *(f"{name}: {spoken_size(size)}" for name, size in status.stored.items()),
            f"last backup: {status.backup.isoformat(timespec='seconds') if status.backup else 'never'}",
        ]
        return [
            ("Processes", processes),
            ("Queues", queues),
            ("Replies", [replies]),
            ("Models", models),
            ("Fine-tunes", jobs),
            ("Storage", storage),
        ]
