"""Whether the site can answer right now: the checks behind /readyz. Cheap, and cached for a second."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import redis
from django.conf import settings
from django.db import DatabaseError

from inference.models import ServedModel, Worker
from inference.serving import without_ready_worker
from webapp.ops import schema
from webapp.ops.doctor.database import look
from webapp.ops.doctor.finding import first_line

CACHE_SECONDS = 1.0
BROKER_TIMEOUT_SECONDS = 2.0
_UPGRADED = "Restart this process with the version of Flywheel that migrated it."
_lock = threading.Lock()
_cached: tuple[float, list[Check]] | None = None


@dataclass(frozen=True)
class Check:
    """One thing that has to be so; where it is not, `code` is for programs and `message` says what to do."""

    name: str
    ok: bool
    code: str = "ok"
    message: str = ""


def checks() -> list[Check]:
    """All checks, at most a second old; concurrent callers share one run."""
    global _cached
    with _lock:
        if _cached is None or time.monotonic() - _cached[0] > CACHE_SECONDS:
            _cached = (time.monotonic(), [*database(), broker()])
        return _cached[1]


def database() -> list[Check]:
    """The database answers, its schema is current, and a worker holds a lease in it."""
    try:
        look()
        missing = schema.pending()
        if missing:
            return [
                Check("database", True),
                Check("migrations", False, "schema_stale", schema.sentence(missing)),
            ]
        # Somebody upgrades: this process goes on with what it has, and nothing new is sent its way.
        if unknown := schema.unknown():
            return [
                Check("database", True),
                Check("migrations", False, "schema_newer", f"{schema.newer(unknown)} {_UPGRADED}"),
            ]
        return [Check("database", True), Check("migrations", True), worker()]
    except DatabaseError as error:
        return [
            Check("database", False, "database_down", f"The database does not answer: {first_line(error)}")
        ]


def worker() -> Check:
    alive = list(Worker.objects.alive())
    if any(one.state == Worker.State.READY for one in alive):
        return _serving()
    for one in alive:
        if one.state == Worker.State.BROKEN:
            return Check(
                "worker", False, "model_broken", one.error or "The inference worker cannot load its model."
            )
    if any(one.state == Worker.State.LOADING for one in alive):
        return Check("worker", False, "model_loading", "The inference worker is loading its model.")
    return Check("worker", False, "no_worker", "No inference worker is running: start one, or see its log.")


def _serving() -> Check:
    """Others may answer with all kinds of models: what conversations use is what a site cannot be without."""
    default = ServedModel.objects.filter(is_default=True).first()
    if default is None or not without_ready_worker([default.pk]):
        return Check("worker", True)
    return Check(
        "worker",
        False,
        "model_not_served",
        f"No worker serves {default.name}, the default model: start one whose INFERENCE_MODELS names it, or is unset.",
    )


def broker() -> Check:
    client = redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=BROKER_TIMEOUT_SECONDS,
        socket_connect_timeout=BROKER_TIMEOUT_SECONDS,
    )
    try:
        with client:
            client.ping()
    except redis.RedisError as error:
        return Check("broker", False, "broker_down", f"The broker does not answer: {first_line(error)}")
    return Check("broker", True)
