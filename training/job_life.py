"""The life of a job: sent, claimed in turn, kept alive, ended once, recovered. Knows nothing of how a job is done.

    validating_files -> queued -> running -> succeeded | failed | cancelled | paused | queued again

validating_files is a job whose files are still being checked and frozen (`training.job_files`); no worker holds it.

Every change of state is a compare-and-set on state and attempt, so that of two who want it only one can win. A task
says that a job waits, and not which: whose turn it is decides the row that is claimed. So a task delivered twice finds
nothing to do, and one that was lost is sent again by the reaper.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import structlog
from celery import current_app
from django.db import transaction
from django.db.models import Count, F, Max, Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext_noop
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from training import storage
from training.job_notify import job_changed
from training.models import Checkpoint, Job, JobEvent
from training.models.jobs import PRUNED
from training.search_tasks import send_search
from webapp.core import clock, metrics, snapshots
from webapp.core.request_ids import on_behalf_of

logger = logging.getLogger(__name__)
events = structlog.get_logger(__name__)
State, Wish, Level = Job.State, Job.Wish, JobEvent.Level

QUEUE = "training"
# Stages of its worker: it looks whether the data is what was frozen, and copies what came of it.
CHECKING, PUBLISHING = "checking", "publishing"
# States in which an attempt holds the job.
HELD = (State.RUNNING,)
# A worker renews this about every half second; when it runs out the job goes to another. One that cannot has its
# trainer save and end before (`training.lease_guard`); a database that is started again need not end any.
LEASE = timedelta(seconds=30)
MAX_CRASHES = 3
# How long a task may be on its way before it is taken for lost.
_LOST_AFTER = timedelta(seconds=10)
# Rows keep sentences in English; pages translate them.
WORKER_LOST = gettext_noop(
    "The training ended three times without getting any further; it may have run out of memory. Lower the batch size "
    "or the length of examples, or turn gradient checkpointing on."
)


def send_task() -> None:
    """Tells the workers, once this commits, that a job waits."""
    transaction.on_commit(_send)


def _send() -> None:
    try:
        current_app.send_task("training.run", queue=QUEUE, retry=False)
    except (OperationalError, RedisError, OSError) as error:
        logger.warning("task of a training job not sent, the reaper will: %s", error)


def has_worker() -> bool:
    """Whether anybody is there to do a job, as far as the broker can say."""
    try:
        return any(process.kind == QUEUE for process in snapshots.read_all(snapshots.connect()))
    except RedisError:
        return True


def change(job: Job, *, expected: tuple[str, ...], state: str, **fields: Any) -> bool:
    """`expected` -> `state`, in the attempt that `job` is of. False where it is not so any more: nothing happened."""
    fields |= {"state": state, "finished_at": timezone.now() if state in Job.TERMINAL else None}
    rows = Job.objects.filter(id=job.id, state__in=expected, attempt=job.attempt)
    if not rows.update(**fields):
        return False
    for name, value in fields.items():
        setattr(job, name, value)
    job_changed(job)
    if state == State.SUCCEEDED or (state == State.CANCELLED and job.search_id is not None):
        # Nobody goes on from what was saved, and checkpoints of all weights are several times the model.
        Checkpoint.objects.filter(job=job).update(is_kept=False)
        transaction.on_commit(partial(storage.remove_folder, storage.job_folder(job) / "checkpoints"))
    if state == State.FAILED:
        metrics.errors.labels("job", job.error_code).inc()
    if state in Job.TERMINAL and job.search_id is not None:
        send_search(job.search_id)
    return True


def add_event(
    job: Job, code: str, message: str, *, level: str = Level.INFO, data: dict[str, Any] | None = None
) -> None:
    """Inside a transaction: the job's row is locked from then on, so that numbers are given one at a time."""
    rows = Job.objects.filter(id=job.id)
    rows.update(last_event=F("last_event") + 1)
    JobEvent.objects.create(
        job=job,
        number=rows.values_list("last_event", flat=True).get(),
        level=level,
        code=code,
        message=message,
        data=data or {},
    )
    with on_behalf_of(job.request_id, job=str(job.id)):
        events.info("job_event", code=code, attempt=job.attempt)
    job_changed(job)


# --- what workers call -----------------------------------------------------------------------------------------


def claim_next() -> Job | None:
    """The job whose turn it is, under a new attempt; None where none waits.

    It is of the workspace with the fewest jobs in hand, and of those the one that was served longest ago; there it is
    the oldest of the person with the fewest, by the same rule.
    """
    while (job := _next()) is not None:
        waiting = Job.objects.filter(id=job.id, state=State.QUEUED, attempt=job.attempt)
        now = clock.now()
        with transaction.atomic():
            claimed = waiting.update(
                state=State.RUNNING,
                attempt=F("attempt") + 1,
                heartbeat_at=now,
                started_at=job.started_at or now,
                stage=CHECKING,
                wish=Wish.NONE,
            )
            if not claimed:
                continue  # another worker was faster, or a person paused it
            job = Job.objects.select_related("workspace", "base", "version").get(id=job.id)
            add_event(job, "validating", "Its data is being checked.", data={"attempt": job.attempt})
        return job
    return None


def _next() -> Job | None:
    waiting = Job.objects.filter(state=State.QUEUED).order_by("created_at", "id")
    queue = list(waiting.only("id", "workspace", "created_by", "attempt", "started_at"))
    if not queue:
        return None
    of_all = Job.objects.filter(workspace__in={job.workspace_id for job in queue})
    queue = _whose_turn(queue, "workspace_id", of_all)
    return _whose_turn(queue, "created_by_id", Job.objects.filter(workspace=queue[0].workspace_id))[0]


def _whose_turn(queue: list[Job], who: str, theirs: QuerySet[Job]) -> list[Job]:
    """Of the queue, oldest first, the jobs of the one (`who`: a field's name) whose turn it is."""
    counted = (
        theirs.order_by()
        .values(who)
        .annotate(in_hand=Count("id", filter=Q(state__in=HELD)), served=Max("heartbeat_at"))
    )
    never = datetime.min.replace(tzinfo=UTC)
    turns = {row[who]: (row["in_hand"], row["served"] or never) for row in counted}
    first = min(queue, key=lambda job: turns[getattr(job, who)])
    return [job for job in queue if getattr(job, who) == getattr(first, who)]


def keep(job: Job, **fields: Any) -> str | None:
    """Says the attempt lives, and what else is new. Answers what a person wishes of it; None where it is lost."""
    mine = Job.objects.filter(id=job.id, state__in=HELD, attempt=job.attempt)
    if not mine.update(heartbeat_at=clock.now(), **fields):
        return None
    return mine.values_list("wish", flat=True).first()


def lock(job: Job) -> bool:
    """Inside a transaction: whether the job is still this attempt's; until the commit it stays so."""
    rows = Job.objects.select_for_update(of=("self",))
    return rows.filter(id=job.id, state__in=HELD, attempt=job.attempt).exists()


@transaction.atomic
def begin(job: Job) -> bool:
    """Its data is what was frozen, and its trainer starts. False where the attempt is lost."""
    if keep(job, stage="") is None:
        return False
    first = job.attempt == 1
    add_event(job, "started", "It begins." if first else "It goes on.", data={"attempt": job.attempt})
    return True


@transaction.atomic
def end(job: Job, state: str, **fields: Any) -> bool:
    """The attempt is over. False where it is no longer ours to end."""
    if not change(job, expected=HELD, state=state, wish=Wish.NONE, **fields):
        return False
    message = fields.get("error_message") or ending(job)
    level = Level.ERROR if state == State.FAILED else Level.INFO
    add_event(job, str(state), message, level=level, data={"code": fields.get("error_code", "")})
    return True


@transaction.atomic
def prune(job: Job) -> bool:
    """Has a trial that runs stopped early. False where it is no longer to be: it has ended, or a person wants else."""
    running = Job.objects.filter(id=job.id, state=State.RUNNING, attempt=job.attempt, wish=Wish.NONE)
    if not running.update(wish=Wish.CANCEL, error_code=PRUNED):
        return False
    add_event(job, PRUNED, "It is stopped early: others were better by then.")
    return True


def last_saved(job: Job) -> int:
    """The step of the last checkpoint that is there; 0 where there is none."""
    kept = Checkpoint.objects.filter(job=job, is_kept=True)
    return kept.aggregate(last=Max("step"))["last"] or 0


def ending(job: Job) -> str:
    """What is said of the state it is in. What was learnt is not always saved: a trainer may die, or take too long."""
    if job.state == State.SUCCEEDED:
        return "It is done, and what it learnt can be used."
    saved = last_saved(job)
    if job.state == State.CANCELLED:
        return f"It was cancelled. Step {saved} is kept for a while." if saved else "It was cancelled."
    if job.state == State.PAUSED and saved < job.step:
        if not saved:
            return "It is paused. Nothing of it was saved in time: it begins anew."
        return f"It is paused. Not all was saved in time: it goes on from step {saved}."
    return "It is paused; what it had learnt is saved." if job.state == State.PAUSED else ""


@transaction.atomic
def release(job: Job) -> bool:
    """Back to the queue from a worker that stops; it goes on from what was saved."""
    return _give_back(job, "released", "Its worker was stopped; it goes on with the next one.")


@transaction.atomic
def crashed(job: Job) -> bool:
    """The attempt ended by no wish of anybody's: again, unless it has got no further for too long."""
    crashes = Job.objects.values_list("crashes", flat=True).get(id=job.id) + 1
    logger.warning("job %s lost its trainer (%s of %s)", job.id, crashes, MAX_CRASHES)
    if crashes >= MAX_CRASHES:
        return end(job, State.FAILED, crashes=crashes, error_code="worker_lost", error_message=WORKER_LOST)
    message = "It ended unexpectedly, and is begun again from the last checkpoint."
    return _give_back(job, "crashed", message, level=Level.WARNING, crashes=crashes)


def _give_back(job: Job, code: str, message: str, *, level: str = Level.INFO, **fields: Any) -> bool:
    """To the queue, or to where a person wished it to go and its worker had not heard."""
    wish = Job.objects.select_for_update().values_list("wish", flat=True).get(id=job.id)
    if wish:
        return end(job, State.CANCELLED if wish == Wish.CANCEL else State.PAUSED, **fields)
    if not change(job, expected=HELD, state=State.QUEUED, sent_at=clock.now(), **fields):
        return False
    add_event(job, code, message, level=level)
    send_task()
    return True


# --- the reaper ------------------------------------------------------------------------------------------------


def reap() -> None:
    """Hands over what silent workers held, and sends tasks again where fewer are on their way than jobs wait."""
    now = clock.now()
    if not clock.settled(LEASE.total_seconds()):
        # Who lives says so within half a second; by the clock that was, everybody is dead, or alive for an hour.
        Job.objects.filter(state__in=HELD).update(heartbeat_at=now)
        Job.objects.filter(state=State.QUEUED, sent_at__gt=now).update(sent_at=now)
        return
    for job in Job.objects.filter(state__in=HELD, heartbeat_at__lt=now - LEASE):
        crashed(job)
    waiting = Job.objects.filter(state=State.QUEUED, sent_at__lt=now - _LOST_AFTER).count()
    if waiting:
        # Jobs may wait for hours behind others: a task each time this runs would make thousands of them.
        try:
            with current_app.connection_for_write() as connection:
                on_their_way = connection.default_channel.queue_declare(QUEUE).message_count
        except (OperationalError, RedisError, OSError) as error:
            logger.warning("tasks of training jobs were not counted: %s", error)
            return
        for _ in range(waiting - on_their_way):
            _send()
