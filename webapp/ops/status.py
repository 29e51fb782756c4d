"""What an operator wants to know of a site at a glance: its processes, what waits, and what needs attention.

Gathered from the processes' snapshots, the database and the broker; what cannot be asked is left out and said. Words
and pictures are `status_words`' and the template's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

import redis
from django.db.models import Count, Min, Q, Sum
from django.utils import timezone

from inference.models import Generation, ServedModel, Worker
from inference.serving import has_its_first_model, without_ready_worker
from training.models import Job, SourceFile
from webapp.core import clock, recent_errors, snapshots
from webapp.core.recent_errors import RecentError
from webapp.core.snapshots import Snapshot
from webapp.ops import figures, schema
from webapp.ops.backup.snapshot import database_size
from webapp.ops.doctor.database import look

# Every site has one of each at least.
KINDS = ("web", "inference", "training", "worker", "data", "beat")
ERRORS_SHOWN = 20


@dataclass(frozen=True)
class ProcessRow:
    kind: str
    host: str
    pid: int
    since: datetime
    memory: int = 0  # bytes, resident
    worker: Worker | None = None  # its lease, of an inference worker
    generations: int = 0
    places: int = 0
    sockets: int = 0

    @property
    def lease_seconds(self) -> int:
        """Until the lease runs out, unless it is renewed."""
        assert self.worker is not None
        return max(round((self.worker.lease_expires_at - clock.now()).total_seconds()), 0)


@dataclass(frozen=True)
class ModelRow:
    name: str
    is_default: bool
    size: int  # bytes
    processes: int  # that have it loaded
    generations: int  # under way
    is_served: bool = True  # unless there are workers that are ready, and none of them was told to serve it


@dataclass(frozen=True)
class Disk:
    host: str
    free: int  # bytes
    size: int


@dataclass(frozen=True)
class Schema:
    pending: list[str]
    unknown: list[str]  # see `webapp.ops.schema`


@dataclass(frozen=True)
class Status:
    at: datetime
    processes: list[ProcessRow]
    missing: list[str]  # kinds of which there is none
    queued: int  # generations
    running: int
    oldest: float  # seconds that the oldest queued one has waited
    queues: list[figures.Queue] | None  # None: the broker does not answer
    broker: figures.Broker | None
    errors: list[RecentError] | None  # the latest first
    models: list[ModelRow]
    jobs: dict[str, int]  # by state
    disks: list[Disk]
    stored: dict[str, int]  # bytes of "database", "models", "uploads"
    backup: datetime | None
    schema: Schema
    worker_errors: list[str] = field(default_factory=list)  # why inference workers cannot load their model

    @property
    def is_stopped(self) -> bool:
        """Nothing of the site runs, as before its first start."""
        return self.missing == [*KINDS]

    @property
    def clocks(self) -> list[ProcessRow]:
        """A site has one: what each sends is done once for each of them."""
        return [row for row in self.processes if "beat" in row.kind.split("+")]

    @property
    def errors_of_hour(self) -> int:
        return sum(time.time() - error.at < 3600 for error in self.errors or [])


def read_status(*, is_command: bool = False) -> Status:
    """Raises DatabaseError; without a broker it tells of this process and the database alone. A command is not
    counted among the site's."""
    look()
    alive = snapshots.of_the_site() if is_command else snapshots.reporter().everybody()
    workers = list(Worker.objects.alive().order_by("started_at"))
    processes = _processes(alive, workers)
    waiting = Generation.objects.filter(state__in=figures.WAITING).aggregate(
        queued=Count("id", filter=Q(state=Generation.State.QUEUED)),
        running=Count("id", filter=Q(state=Generation.State.RUNNING)),
        oldest=Min("created_at", filter=Q(state=Generation.State.QUEUED)),
    )
    now = timezone.now()
    queues, broker, errors = _of_the_broker()
    return Status(
        at=now,
        processes=processes,
        # Without the broker nobody but this process could be heard of.
        missing=[kind for kind in KINDS if not _has(processes, kind)] if broker is not None else [],
        queued=waiting["queued"],
        running=waiting["running"],
        oldest=(now - waiting["oldest"]).total_seconds() if waiting["oldest"] else 0.0,
        queues=queues,
        broker=broker,
        errors=errors,
        models=_models(alive, workers),
        jobs=dict(Job.objects.order_by().values_list("state").annotate(Count("id"))),
        disks=_disks(alive),
        stored=_stored(),
        backup=_backup(alive),
        schema=Schema(schema.pending(), schema.unknown()),
        worker_errors=[
            one.error for one in workers if one.state == Worker.State.BROKEN and not has_its_first_model(one)
        ],
    )


def _of_the_broker() -> tuple[list[figures.Queue] | None, figures.Broker | None, list[RecentError] | None]:
    try:
        with snapshots.connect() as client:
            return figures.read_queues(client), figures.read_broker(client), recent_errors.read(client)
    except redis.RedisError:
        return None, None, None


def _processes(alive: list[Snapshot], workers: list[Worker]) -> list[ProcessRow]:
    """In the order of KINDS. A worker that holds a lease and gives out no figures is one all the same."""
    leases = {(worker.hostname, worker.pid): worker for worker in workers}
    rows = [
        ProcessRow(
            kind=one.kind,
            host=one.host,
            pid=one.pid,
            since=datetime.fromtimestamp(one.started_at, UTC),
            memory=int(one.value("process_resident_memory_bytes")),
            worker=leases.pop((one.host, one.pid), None),
            generations=int(one.value("flywheel_model_generations")),
            places=int(one.value("flywheel_generation_places")),
            sockets=int(one.value("flywheel_sockets")),
        )
        for one in alive
    ]
    rows += [
        ProcessRow("inference", worker.hostname, worker.pid, worker.started_at, worker=worker)
        for worker in leases.values()
    ]
    order = {kind: number for number, kind in enumerate(KINDS)}
    return sorted(rows, key=lambda row: (order.get(row.kind, len(order)), row.host, row.pid))


def _has(processes: list[ProcessRow], kind: str) -> bool:
    return any(kind in row.kind.split("+") for row in processes)


def _models(alive: list[Snapshot], workers: list[Worker]) -> list[ModelRow]:
    """What everybody may use, and what is loaded besides."""
    loaded: dict[str, list[float]] = {}
    for snapshot in alive:
        for labels, value in snapshot.samples("flywheel_model_generations"):
            loaded.setdefault(labels["model"], []).append(value)
    whole = ServedModel.objects.filter(base=None, removed_at=None)
    shown = list(whole.filter(Q(workspace=None) | Q(name__in=loaded)))
    is_ready = any(worker.state == Worker.State.READY for worker in workers)
    unserved = without_ready_worker([model.pk for model in shown]) if is_ready else []
    return [
        ModelRow(
            model.name,
            model.is_default,
            model.size_bytes,
            len(loaded.get(model.name, ())),
            int(sum(loaded.get(model.name, ()))),
            model.pk not in unserved,
        )
        for model in shown
    ]


def _disks(alive: list[Snapshot]) -> list[Disk]:
    """Of each host the fullest, where its processes keep their state on several."""
    found: dict[str, Disk] = {}
    for one in alive:
        disk = Disk(
            one.host, int(one.value("flywheel_disk_free_bytes")), int(one.value("flywheel_disk_size_bytes"))
        )
        if disk.size and (one.host not in found or disk.free < found[one.host].free):
            found[one.host] = disk
    return [found[host] for host in sorted(found)]


def _stored() -> dict[str, int]:
    models = ServedModel.objects.filter(removed_at=None).aggregate(size=Sum("size_bytes"))["size"]
    uploads = SourceFile.objects.aggregate(size=Sum("size"))["size"]
    return {"database": database_size(), "models": models or 0, "uploads": uploads or 0}


def _backup(alive: list[Snapshot]) -> datetime | None:
    """The last one that was made on any of the machines."""
    times = [one.value("flywheel_last_backup_timestamp_seconds") for one in alive]
    latest = max(times, default=0.0)
    return datetime.fromtimestamp(latest, UTC) if latest else None
