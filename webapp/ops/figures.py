"""What /metrics says of the whole site, whichever process is asked, and of the machine that each process is on."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import NamedTuple

import msgspec
import redis
from django.conf import settings
from django.db import DatabaseError
from django.db.models import Count, Min
from django.utils import timezone
from prometheus_client.core import GaugeMetricFamily

from inference import services as inference
from inference.models import Generation, Worker
from inference.task_messages import queue_key
from training.models import Job
from webapp.api.models import WebhookDelivery
from webapp.core import metrics, snapshots
from webapp.core.task_headers import SENT_AT
from webapp.ops import schema
from webapp.ops.backup.last import last_backup
from webapp.ops.doctor.database import look
from webapp.ops.doctor.finding import first_line
from webapp.ops.processes import QUEUES

logger = logging.getLogger(__name__)

WAITING = (Generation.State.QUEUED, Generation.State.RUNNING)
_Figures = Callable[[], Iterator[GaugeMetricFamily]]


# --- the database --------------------------------------------------------------------------------------------


class _Database:
    """Whether it answers: one look for all of its figures, each of which would wait as long as the pool does."""

    def __init__(self) -> None:
        self._at, self._answers = float("-inf"), False
        self._lock = threading.Lock()

    def answers(self) -> bool:
        with self._lock:
            if time.monotonic() - self._at > metrics.CACHE_SECONDS:
                self._answers = self._look()
                self._at = time.monotonic()
            return self._answers

    def look_again(self) -> None:
        with self._lock:
            self._at = float("-inf")

    def _look(self) -> bool:
        try:
            look()
        except DatabaseError as error:
            logger.warning("figures of the database are left out: %s", first_line(error))
            return False
        return True


_database = _Database()


def of_the_database(collect: _Figures) -> _Figures:
    """`collect`, and nothing while the database is away."""

    def collected() -> Iterator[GaugeMetricFamily]:
        if not _database.answers():
            return
        try:
            yield from collect()
        except DatabaseError:
            _database.look_again()
            raise

    return collected


def database() -> Iterator[GaugeMetricFamily]:
    yield GaugeMetricFamily(
        "flywheel_database_up", "1 where the database answers.", value=_database.answers()
    )


def generations() -> Iterator[GaugeMetricFamily]:
    """Those that have not ended, for which there is an index; those that have are counted as they end."""
    family = GaugeMetricFamily(
        "flywheel_generations", "Generations that have not ended, by state.", labels=["state"]
    )
    unfinished = Generation.objects.filter(state__in=WAITING)
    counted = dict(unfinished.values_list("state").annotate(Count("id")).order_by())
    for state in WAITING:
        family.add_metric([state], counted.get(state, 0))
    yield family
    oldest = Generation.objects.filter(state=Generation.State.QUEUED).aggregate(at=Min("created_at"))["at"]
    yield GaugeMetricFamily(
        "flywheel_generations_oldest_seconds",
        "For how long the oldest generation that is queued has waited.",
        value=(timezone.now() - oldest).total_seconds() if oldest else 0,
    )


def workers() -> Iterator[GaugeMetricFamily]:
    family = GaugeMetricFamily(
        "flywheel_workers", "Inference workers with a lease, by state.", labels=["state"]
    )
    alive = Worker.objects.alive()
    counted = dict(alive.values_list("state").annotate(Count("id")).order_by())
    for state in Worker.State.values:
        family.add_metric([state], counted.get(state, 0))
    yield family


def jobs() -> Iterator[GaugeMetricFamily]:
    family = GaugeMetricFamily("flywheel_jobs", "Training jobs by state.", labels=["state"])
    counted = dict(Job.objects.values_list("state").annotate(Count("id")).order_by())
    for state in Job.State.values:
        family.add_metric([state], counted.get(state, 0))
    yield family


def webhooks() -> Iterator[GaugeMetricFamily]:
    family = GaugeMetricFamily(
        "flywheel_webhook_deliveries",
        "Events that are still to be delivered, and those of them that should have been tried a minute ago.",
        labels=["state"],
    )
    pending = WebhookDelivery.objects.filter(next_at__isnull=False)
    family.add_metric(["pending"], pending.count())
    overdue = timezone.now() - timedelta(minutes=1)
    family.add_metric(["overdue"], pending.filter(next_at__lt=overdue).count())
    yield family


def migrations() -> Iterator[GaugeMetricFamily]:
    yield GaugeMetricFamily(
        "flywheel_schema_pending",
        "Migrations that the database lacks.",
        value=len(schema.pending()),
    )


# --- the broker ----------------------------------------------------------------------------------------------


class Queue(NamedTuple):
    name: str
    depth: int  # tasks
    oldest: float  # seconds that the oldest has waited


def read_queues(client: redis.Redis) -> list[Queue]:
    """Those of all models are one here. Raises redis.RedisError, and DatabaseError."""
    parts = {queue: [queue] for queue in QUEUES.values()} | {inference.QUEUE: inference.queues()}
    names = [name for of_it in parts.values() for name in of_it]
    with client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.llen(queue_key(name))
            pipe.lindex(queue_key(name), -1)  # the next to be taken
        answers = pipe.execute()
    depths = dict(zip(names, answers[::2], strict=True))
    waited = {name: _waited(oldest) for name, oldest in zip(names, answers[1::2], strict=True)}
    return [
        Queue(queue, sum(depths[name] for name in of_it), max(waited[name] for name in of_it))
        for queue, of_it in parts.items()
    ]


def queues() -> Iterator[GaugeMetricFamily]:
    depth = GaugeMetricFamily("flywheel_queue_depth", "Tasks waiting in each queue.", labels=["queue"])
    age = GaugeMetricFamily(
        "flywheel_queue_oldest_seconds", "For how long each queue's oldest task has waited.", labels=["queue"]
    )
    with snapshots.connect() as client:
        for queue in read_queues(client):
            depth.add_metric([queue.name], queue.depth)
            age.add_metric([queue.name], queue.oldest)
    yield depth
    yield age


class _Headers(msgspec.Struct):
    sent_at: float | None = msgspec.field(default=None, name=SENT_AT)


class _Task(msgspec.Struct):
    headers: _Headers


def _waited(message: bytes | None) -> float:
    if message is None:
        return 0.0
    try:
        sent_at = msgspec.json.decode(message, type=_Task).headers.sent_at
    except msgspec.DecodeError:
        return 0.0
    return max(time.time() - sent_at, 0.0) if sent_at is not None else 0.0


class Broker(NamedTuple):
    memory: int  # bytes
    limit: int  # bytes; 0: none
    policy: str  # of what goes when memory is full: "noeviction", or tasks may be lost
    persists: bool  # it keeps an append-only file, and could write it


def read_broker(client: redis.Redis) -> Broker:
    """Raises redis.RedisError."""
    said = client.info()
    return Broker(
        said["used_memory"],
        said.get("maxmemory", 0),
        said.get("maxmemory_policy", "noeviction"),
        bool(said.get("aof_enabled")) and said.get("aof_last_write_status", "ok") == "ok",
    )


def broker() -> Iterator[GaugeMetricFamily]:
    with snapshots.connect() as client:
        found = read_broker(client)
    yield GaugeMetricFamily("flywheel_broker_memory_bytes", "Memory the broker uses.", value=found.memory)
    yield GaugeMetricFamily(
        "flywheel_broker_memory_limit_bytes",
        "The broker's maxmemory; 0 where it has none.",
        value=found.limit,
    )
    yield GaugeMetricFamily(
        "flywheel_broker_evicts",
        "1 where the broker may throw waiting tasks away: its maxmemory-policy is not noeviction.",
        value=found.policy != "noeviction",
    )
    yield GaugeMetricFamily(
        "flywheel_broker_persists",
        "1 where the broker keeps an append-only file and can write it.",
        value=found.persists,
    )


# --- this process's machine ----------------------------------------------------------------------------------


def machine() -> Iterator[GaugeMetricFamily]:
    """Where this process keeps its state: other processes may have other disks."""
    disk = shutil.disk_usage(settings.FLYWHEEL_HOME)
    yield GaugeMetricFamily("flywheel_disk_free_bytes", "Free where FLYWHEEL_HOME lies.", value=disk.free)
    yield GaugeMetricFamily(
        "flywheel_disk_size_bytes", "Size of the disk where FLYWHEEL_HOME lies.", value=disk.total
    )
    backup = last_backup()
    yield GaugeMetricFamily(
        "flywheel_last_backup_timestamp_seconds",
        "When the last backup that was made on this machine ended; 0: never.",
        value=backup.finished_at.timestamp() if backup is not None else 0,
    )
