"""What of a site's status needs attention, and what to do about it; in the reader's language. Knows no page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from training.job_words import spoken_time
from training.sizes import spoken_size
from webapp.ops import processes, room
from webapp.ops.status import Status

# So long somebody may wait for the first word, or a small task, before an operator should know.
WAITED_SECONDS, TASK_WAITED_SECONDS = 60, 300
BACKUP_AGE = timedelta(hours=26)

KINDS = {
    "web": gettext_lazy("Web"),
    "inference": gettext_lazy("Inference"),
    "training": gettext_lazy("Training"),
    "worker": gettext_lazy("Small tasks"),
    "data": gettext_lazy("Data"),
    "beat": gettext_lazy("Clock"),
}
QUEUES = {queue: KINDS[kind] for kind, queue in processes.QUEUES.items()}
# What does not happen without one.
_WITHOUT = {
    "inference": gettext_lazy("nothing is answered"),
    "training": gettext_lazy("fine-tunes wait"),
    "worker": gettext_lazy("replies of a worker that dies are not continued, and no mail or webhook is sent"),
    "data": gettext_lazy("uploads are not looked at"),
    "beat": gettext_lazy("replies of a worker that dies are not continued, and nothing is tidied up"),
    "web": gettext_lazy("nobody reaches the site"),
}


@dataclass(frozen=True)
class Finding:
    """`is_problem`: something does not work; otherwise it soon might not."""

    is_problem: bool
    sentence: str
    advice: str


def findings(status: Status) -> list[Finding]:
    """Problems first."""
    return sorted(_findings(status), key=lambda finding: not finding.is_problem)


def kind_name(kind: str) -> str:
    return " + ".join(str(KINDS.get(part, part)) for part in kind.split("+"))


def _findings(status: Status) -> Iterator[Finding]:
    yield from of_kinds(status)
    yield from _of_workers(status)
    yield from _of_what_waits(status)
    yield from _of_the_broker(status)
    for disk in status.disks:
        if room.is_short_of_disk(free=disk.free, size=disk.size):
            yield Finding(
                disk.free < room.LEAST_DISK,
                _("%(free)s are free on %(host)s.") % {"free": spoken_size(disk.free), "host": disk.host},
                _("Make room: the database and the broker stop when the disk is full."),
            )
    if backup_is_old(status.backup):
        yield Finding(
            False,
            _("There is no backup yet.")
            if status.backup is None
            else _("The last backup is %(age)s old.") % {"age": spoken_age(status.backup)},
            _("Run `python manage.py backup`, and have it run every day."),
        )
    if status.schema.pending:
        yield Finding(
            True,
            _("Migrations that the database lacks: %(n)s.") % {"n": len(status.schema.pending)},
            _("Run `python manage.py migrate_locked`, then restart the processes."),
        )
    if status.schema.unknown:
        yield Finding(
            True,
            _("The database is newer than this version of the site: it has %(migration)s.")
            % {"migration": status.schema.unknown[0]},
            _(
                "Run the version that the database was brought up to date with, or restore a backup of before."
            ),
        )


def of_kinds(status: Status) -> Iterator[Finding]:
    """Kinds of process of which there are too few or too many."""
    if status.is_stopped:
        yield Finding(
            True,
            _("No process of the site is running: nothing is answered."),
            _("Start it with `make run`, or with what starts its processes here."),
        )
        return
    for kind in status.missing:
        yield Finding(
            True,
            _("No process of the kind “%(kind)s” is running: %(without)s.")
            % {"kind": kind_name(kind), "without": _WITHOUT[kind]},
            _("Start one, or see its log (logs/%(kind)s.log under `make run`).") % {"kind": kind},
        )
    if len(status.clocks) > 1:
        where = ", ".join(f"{clock.host} {clock.pid}" for clock in status.clocks)
        yield Finding(
            False,
            _("More than one clock runs, so small tasks are sent more than once: %(where)s.")
            % {"where": where},
            _("Stop all but one of these processes; their kind is called beat."),
        )


def _of_workers(status: Status) -> Iterator[Finding]:
    for error in status.worker_errors:
        yield Finding(
            True,
            _("An inference worker cannot load its model: %(error)s") % {"error": error},
            _("Run `python manage.py doctor` on its machine."),
        )
    for model in status.models:
        if not model.is_served:
            yield of_unserved(model.name, model.is_default)


def of_unserved(model: str, is_default: bool) -> Finding:
    """Every worker was told not to serve it."""
    said = (
        _("No worker serves %(model)s, the default model.")
        if is_default
        else _("No worker serves %(model)s.")
    )
    return Finding(
        is_default, said % {"model": model}, _("Start one whose INFERENCE_MODELS names it, or is unset.")
    )


def _of_what_waits(status: Status) -> Iterator[Finding]:
    if status.oldest > WAITED_SECONDS:
        yield Finding(
            True,
            _("The oldest reply that waits has waited for %(time)s.") % {"time": spoken_time(status.oldest)},
            _("Add an inference worker, or lower INFERENCE_MAX_QUEUED so that people hear of it sooner."),
        )
    for queue in status.queues or []:
        # Fine-tunes wait for each other, and replies were looked at.
        if queue.name in ("default", "data") and queue.oldest > TASK_WAITED_SECONDS:
            yield Finding(
                False,
                _("The oldest task in the queue “%(queue)s” has waited for %(time)s.")
                % {"queue": str(QUEUES[queue.name]), "time": spoken_time(queue.oldest)},
                _("Add a process of that kind, or see its log."),
            )


def _of_the_broker(status: Status) -> Iterator[Finding]:
    broker = status.broker
    if broker is None:
        yield Finding(
            True,
            _("The broker does not answer: nothing new is answered, and other processes are not seen here."),
            _("Start it, or correct REDIS_URL. Replies go on when it is back."),
        )
        return
    if broker.policy != "noeviction":
        yield Finding(
            True,
            _("The broker may throw waiting tasks away: its maxmemory-policy is %(policy)s.")
            % {"policy": broker.policy},
            _("Set maxmemory-policy noeviction."),
        )
    if not broker.persists:
        yield Finding(
            False,
            _("The broker keeps nothing on disk: replies being written begin again when it restarts."),
            _("Set appendonly yes, and see that its disk is not full."),
        )
    if room.is_short_of_memory(used=broker.memory, limit=broker.limit):
        yield Finding(
            False,
            _("The broker uses %(used)s of the %(limit)s it may.")
            % {"used": spoken_size(broker.memory), "limit": spoken_size(broker.limit)},
            _("Raise its maxmemory."),
        )


def backup_is_old(finished_at: datetime | None) -> bool:
    return finished_at is None or timezone.now() - finished_at > BACKUP_AGE


def spoken_age(at: datetime) -> str:
    return spoken_time(max((timezone.now() - at).total_seconds(), 0.0))
