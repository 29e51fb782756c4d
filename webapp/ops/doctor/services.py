"""The database, the broker and the workers. Each may be down; that is a finding, not a crash."""

from __future__ import annotations

from collections.abc import Iterator

from django.db import DatabaseError

from webapp.ops.doctor import broker, database
from webapp.ops.doctor.finding import Finding, Level, ok, problem, warning


def check() -> Iterator[Finding]:
    found = list(database.check())
    yield from found
    if any(finding.level is Level.OK for finding in found):
        yield from database.current_schema()
    yield from broker.check()
    yield from workers()


def workers() -> Iterator[Finding]:
    from inference.models import Worker

    try:
        alive = list(Worker.objects.alive())
    except DatabaseError:
        return  # said already
    if not alive:
        yield problem(
            "workers",
            "No inference worker is running, so nothing is answered.",
            "Start the site, or a worker.",
        )
    for worker in alive:
        where = f"Worker {worker.pid} on {worker.hostname}"
        if worker.state == Worker.State.BROKEN:
            yield problem(
                "workers", f"{where} cannot load its model: {worker.error}", "See the finding on models."
            )
        elif worker.state == Worker.State.READY:
            yield ok("workers", f"{where} answers with {worker.model}.")
        else:
            yield warning("workers", f"{where} is {worker.state}.", "Ask again in a minute, or see its log.")
