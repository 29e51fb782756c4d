"""The database, the broker, the processes, the workers and the shared storage. Each may be down; that is a finding, not
a crash."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import DatabaseError

from webapp.core import shared_storage
from webapp.core.shared_storage import NotMounted, StorageError
from webapp.ops import status_words
from webapp.ops.doctor import broker, database
from webapp.ops.doctor.finding import Finding, Level, ok, problem, warning
from webapp.ops.status import Status, read_status


def check() -> Iterator[Finding]:
    of_the_database, of_the_broker = list(database.check()), list(broker.check())
    yield from of_the_database
    if _answers(of_the_database):
        yield from database.current_schema()
    yield from of_the_broker
    # Processes are heard of through the broker, and workers through the database, too.
    status = _status() if _answers(of_the_database) and _answers(of_the_broker) else None
    if status is not None:
        yield from processes(status)
    if status is None or "inference" not in status.missing:
        yield from workers()
    yield from storage()


def _answers(found: list[Finding]) -> bool:
    return any(finding.level is Level.OK for finding in found)


def _status() -> Status | None:
    try:
        return read_status(is_command=True)
    except DatabaseError:
        return None  # its schema is not current: said already


def processes(status: Status) -> Iterator[Finding]:
    """Kinds of process of which there are too few or too many."""
    for found in status_words.of_kinds(status):
        finding = problem if found.is_problem else warning
        yield finding("processes", found.sentence, found.advice)


def _others(worker: Any) -> str:
    count = None if worker.serves is None else len(worker.serves)
    return (
        ", and any other that is asked for"
        if count is None
        else f" and {count - 1} others"
        if count > 1
        else ""
    )


def unserved() -> Iterator[Finding]:
    """Models of everybody's that every worker was told not to serve."""
    from inference.models import ServedModel
    from inference.serving import without_ready_worker

    everybodys = {
        model.pk: model for model in ServedModel.objects.filter(workspace=None, base=None, removed_at=None)
    }
    for pk in without_ready_worker([*everybodys]):
        found = status_words.of_unserved(everybodys[pk].name, everybodys[pk].is_default)
        finding = problem if found.is_problem else warning
        yield finding("workers", found.sentence, found.advice)


def storage() -> Iterator[Finding]:
    """Whether the shared storage takes what it is given and gives it back."""
    if not shared_storage.is_shared():
        return
    from inference import mounted

    name = f".doctor/{uuid.uuid4()}"
    try:
        with contextlib.suppress(DatabaseError):  # said already
            mounted.check()
        shared_storage.write(name, b"doctor")
        whole = shared_storage.read_whole(name, 6) == b"doctor"
        shared_storage.delete(name)
    except NotMounted as error:
        marker = Path(settings.STORAGES[shared_storage.ALIAS]["OPTIONS"]["location"], shared_storage.MARKER)
        advice = f"Mount it. If it is a new storage in the place of the old one, make an empty file {marker}."
        yield problem("storage", str(error), advice)
        return
    except StorageError as error:
        yield problem("storage", str(error), "Correct STORAGE_URL, or the rights this host has there.")
        return
    if whole:
        yield ok("storage", "The shared storage takes files and gives them back.")
    else:
        yield problem(
            "storage", "The shared storage gives back other bytes than it took.", "Look at that server."
        )


def workers() -> Iterator[Finding]:
    from inference.models import Worker
    from inference.serving import has_its_first_model

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
        if worker.state == Worker.State.BROKEN and has_its_first_model(worker):
            yield warning(
                "workers",
                f"{where} has not yet taken up the model that was just installed.",
                "Ask again in a few seconds.",
            )
        elif worker.state == Worker.State.BROKEN:
            yield problem(
                "workers",
                f"{where} cannot load its model: {worker.error}",
                "It tries again every few seconds. Where that does not help, see the finding on models.",
            )
        elif worker.state == Worker.State.READY:
            yield ok("workers", f"{where} answers with {worker.model}{_others(worker)}.")
        else:
            yield warning("workers", f"{where} is {worker.state}.", "Ask again in a minute, or see its log.")
    if any(worker.state == Worker.State.READY for worker in alive):
        yield from unserved()
