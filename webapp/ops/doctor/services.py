"""The database, the broker and the workers. Each may be down; that is a finding, not a crash."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.utils import timezone

from webapp.core import shared_storage
from webapp.core.shared_storage import StorageError
from webapp.ops import schema
from webapp.ops.doctor.finding import Finding, first_line, ok, problem, warning


def check() -> Iterator[Finding]:
    yield from database()
    yield from broker()
    yield from workers()
    yield from storage()


def database() -> Iterator[Finding]:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            if connection.vendor == "sqlite":
                cursor.execute("PRAGMA journal_mode")
                mode = cursor.fetchone()[0]
                if mode not in ("wal", "memory"):
                    yield problem(
                        "database",
                        f"SQLite's journal is {mode} instead of WAL, so readers and writers block each other.",
                        "Keep FLYWHEEL_HOME on a local disk, not on a network share.",
                    )
        missing = schema.pending()
        unknown = [] if missing else schema.unknown()
    except DatabaseError as error:
        yield problem(
            "database",
            f"The database does not answer: {first_line(error)}",
            "Start it, or correct DATABASE_URL.",
        )
        return
    if missing:
        yield problem(
            "database", f"{len(missing)} migrations are missing.", "Run: python manage.py migrate_locked"
        )
    elif unknown:
        yield problem("database", schema.newer(unknown), schema.NEWER_ADVICE)
    else:
        yield ok("database", f"The database ({connection.vendor}) answers and its schema is current.")


def broker() -> Iterator[Finding]:
    try:
        with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=3, socket_connect_timeout=3) as client:
            client.ping()
            yield ok("broker", "The broker answers.")
            try:
                found = {**client.config_get("maxmemory-policy"), **client.config_get("appendonly")}
            except redis.ResponseError:
                yield warning(
                    "broker",
                    "The broker does not let its configuration be read.",
                    "Make sure that it has maxmemory-policy noeviction and appendonly yes.",
                )
                return
    except redis.RedisError as error:
        advice = (
            "Correct REDIS_URL, or start that server." if settings.REDIS_GIVEN else "Start the site: make run"
        )
        yield problem("broker", f"The broker does not answer: {first_line(error)}", advice)
        return
    if found.get("maxmemory-policy") != "noeviction":
        yield problem(
            "broker",
            f"The broker's maxmemory-policy is {found.get('maxmemory-policy')}: it may throw waiting tasks away.",
            "Set maxmemory-policy noeviction.",
        )
    if found.get("appendonly") != "yes":
        yield warning(
            "broker",
            "The broker keeps no append-only file: replies being written start again when it restarts.",
            "Set appendonly yes.",
        )


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
        model = everybodys[pk]
        finding = problem if model.is_default else warning
        yield finding(
            "workers",
            f"No worker serves {model.name}{', the default model' if model.is_default else ''}.",
            "Start one whose INFERENCE_MODELS names it, or is unset.",
        )


def storage() -> Iterator[Finding]:
    """Whether the shared storage takes what it is given and gives it back."""
    if not shared_storage.is_shared():
        return
    name = f".doctor/{uuid.uuid4()}"
    try:
        shared_storage.write(name, b"doctor")
        whole = shared_storage.read_whole(name) == b"doctor"
        shared_storage.delete(name)
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

    try:
        alive = list(Worker.objects.filter(lease_expires_at__gt=timezone.now()))
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
            yield ok("workers", f"{where} answers with {worker.model}{_others(worker)}.")
        else:
            yield warning("workers", f"{where} is {worker.state}.")
    if any(worker.state == Worker.State.READY for worker in alive):
        yield from unserved()
