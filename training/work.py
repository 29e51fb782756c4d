"""The life of a piece of data work: begun, claimed, kept alive, ended once. Knows nothing of what the work is.

Tasks are sent by name, on commit; one that is lost on the way is sent again by the reaper, because the row says it is
queued. Every change of state is a compare-and-set on state and attempt, so that of two workers only one can win.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from celery import current_app
from django.db import IntegrityError, transaction
from django.db.models import F
from django.dispatch import Signal
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from training import storage
from training.job_tasks import send_prepare
from training.models import Dataset, DatasetVersion, DataWork, SourceFile
from webapp.core import clock
from webapp.core.errors import UserError
from webapp.core.locks import lock_until_commit

logger = logging.getLogger(__name__)
State, Kind = DataWork.State, DataWork.Kind

# A worker renews three times within this; after that its work is begun anew by another.
LEASE = timedelta(seconds=15)
MAX_CRASHES = 2
_LOST_AFTER = timedelta(seconds=30)
# Rows keep sentences in English; pages translate them.
WORKER_LOST = gettext_noop(
    "The process that did this ended twice before it was done; it may have run out of memory. Nothing was changed."
    " Try again, or with fewer files."
)

# Sent inside the transaction in which the look at a file ends, however it does. `dataset`: the file's.
looked_at = Signal()


def lock_dataset(dataset_id: UUID) -> None:
    """Of whoever changes more than one row of a dataset, one at a time; first thing inside the transaction.

    Rows are locked after it and never before: of two that wait for each other, the database ends one.
    """
    lock_until_commit(f"training.files.{dataset_id}")


def begin_work(
    *, dataset: Dataset, kind: str, parameters: dict[str, Any], file: SourceFile | None = None
) -> DataWork:
    """Records work and sends its task when the transaction commits.

    Raises UserError `dataset_busy` where something else than a look at a file is going on.
    """
    try:
        with transaction.atomic():
            work = DataWork.objects.create(
                dataset=dataset, kind=kind, parameters=parameters, file=file, sent_at=clock.now()
            )
    except IntegrityError as error:
        raise busy() from error
    transaction.on_commit(lambda: _send(work.id))
    return work


def unfinished(dataset: Dataset) -> DataWork | None:
    """What is being done with the dataset as a whole."""
    going = DataWork.objects.filter(dataset=dataset, state__in=DataWork.UNFINISHED)
    return going.exclude(kind=Kind.DETECT).first()


def looking_at(file_id: UUID) -> DataWork | None:
    return DataWork.objects.filter(file=file_id, kind=Kind.DETECT, state__in=DataWork.UNFINISHED).first()


def busy() -> UserError:
    return UserError(
        "dataset_busy",
        _("Something is being done with this dataset. Wait until it is finished, or cancel it."),
        status=409,
    )


def _send(work_id: UUID) -> None:
    try:
        current_app.send_task("data.run", args=[str(work_id)], queue="data", retry=False)
    except (OperationalError, RedisError, OSError) as error:
        logger.warning("task of data work %s not sent, the reaper will: %s", work_id, error)


def cancel_work(*, work: DataWork) -> None:
    """Ends it at once where it waits; where it runs, its worker ends it within about a second."""
    with transaction.atomic():
        lock_dataset(work.dataset_id)
        going = DataWork.objects.filter(id=work.id, state__in=DataWork.UNFINISHED)
        if not going.update(cancel_requested=True):
            return
        work.refresh_from_db()
        if work.state == State.QUEUED:
            end_work(work=work, expected=State.QUEUED, state=State.CANCELLED)


# --- what workers call -----------------------------------------------------------------------------------------


def claim_work(*, work_id: UUID | str) -> DataWork | None:
    """queued → running under a new attempt; None where someone else was first."""
    waiting = DataWork.objects.filter(id=work_id, state=State.QUEUED, cancel_requested=False)
    claimed = waiting.update(
        state=State.RUNNING, attempt=F("attempt") + 1, heartbeat_at=clock.now(), stage="", done=0, total=0
    )
    return DataWork.objects.select_related("dataset", "file").get(id=work_id) if claimed else None


def keep_work(*, work: DataWork, stage: str, done: int, total: int) -> bool:
    """Says it lives and how far it is. False where it is no longer wanted, or no longer this worker's."""
    mine = DataWork.objects.filter(id=work.id, state=State.RUNNING, attempt=work.attempt)
    return bool(
        mine.filter(cancel_requested=False).update(
            heartbeat_at=clock.now(), stage=stage, done=done, total=total
        )
    )


def lock_work(*, work: DataWork) -> bool:
    """Inside a transaction: whether the work is still this attempt's, and until the commit it stays so."""
    lock_dataset(work.dataset_id)
    rows = DataWork.objects.select_for_update(of=("self",))
    return rows.filter(id=work.id, state=State.RUNNING, attempt=work.attempt).exists()


def end_work(*, work: DataWork, expected: str, state: str, **fields: Any) -> bool:
    """`expected` → `state`. False where it is no longer ours to end."""
    fields |= {"state": state, "finished_at": timezone.now()}
    with transaction.atomic():
        lock_dataset(work.dataset_id)
        rows = DataWork.objects.filter(id=work.id, state=expected, attempt=work.attempt)
        if not rows.update(**fields):
            return False
        for name, value in fields.items():
            setattr(work, name, value)
        if state in (State.FAILED, State.CANCELLED):
            _leave_nothing_half_made(work)
        if work.kind == Kind.DETECT:
            looked_at.send(sender=DataWork, dataset=work.dataset)
        send_prepare()
    return True


def _leave_nothing_half_made(work: DataWork) -> None:
    building = DatasetVersion.objects.filter(work=work, state=DatasetVersion.State.BUILDING)
    if work.state == State.CANCELLED:
        building.delete()
    else:
        building.update(state=DatasetVersion.State.FAILED)
    if work.file_id is not None:
        SourceFile.objects.filter(id=work.file_id, state=SourceFile.State.DETECTING).update(
            state=SourceFile.State.UNREADABLE, detected=None
        )
    # Also of attempts whose worker was killed, which nobody else comes to remove.
    transaction.on_commit(partial(storage.remove_attempts, work))


# --- the reaper ------------------------------------------------------------------------------------------------


def reap() -> None:
    """Hands over what silent workers ran, and sends tasks again that nobody took."""
    now = clock.now()
    if not clock.settled(LEASE.total_seconds()):
        # By the clock that was, everybody is dead, or alive for an hour.
        DataWork.objects.filter(state=State.RUNNING).update(heartbeat_at=now)
        DataWork.objects.filter(state=State.QUEUED, sent_at__gt=now).update(sent_at=now)
        return
    for work in DataWork.objects.filter(state=State.RUNNING, heartbeat_at__lt=now - LEASE):
        _recover(work)
    lost = DataWork.objects.filter(state=State.QUEUED, sent_at__lt=now - _LOST_AFTER)
    for work_id in list(lost.values_list("id", flat=True)[:1000]):
        if lost.filter(id=work_id).update(sent_at=now):
            _send(work_id)


def _recover(work: DataWork) -> None:
    crashes = work.crashes + 1
    logger.warning("data work %s lost its worker (%s of %s)", work.id, crashes, MAX_CRASHES)
    if work.cancel_requested:
        end_work(work=work, expected=State.RUNNING, state=State.CANCELLED)
    elif crashes >= MAX_CRASHES:
        end_work(
            work=work,
            expected=State.RUNNING,
            state=State.FAILED,
            crashes=crashes,
            error_code="worker_lost",
            error_message=WORKER_LOST,
        )
    else:
        mine = DataWork.objects.filter(id=work.id, state=State.RUNNING, attempt=work.attempt)
        if mine.update(state=State.QUEUED, crashes=crashes, sent_at=clock.now()):
            _send(work.id)
