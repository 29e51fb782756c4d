"""Every write to a Worker, and what dead ones leave behind: the reaper hands it over, or ends it.

It works from rows alone, so that it does not matter how a worker died, or what the broker has forgotten.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from django.conf import settings
from django.utils import timezone

from inference import services
from inference.models import Generation, Worker
from inference.serving import ABSENT_AFTER, Workers, not_served
from webapp.core import clock
from webapp.core.request_ids import on_behalf_of

logger = logging.getLogger(__name__)
State = Generation.State
MAX_CRASHES = 3
# A task is thought lost when it is this old and the queue holds none, or, however long the queue is, this much older.
_LOST_AFTER, _SURELY_LOST_AFTER = timedelta(seconds=4), timedelta(seconds=120)
# What was judged is read at once by the page that asked, which then deletes it, unless its process died first.
_UNREAD_AFTER = timedelta(minutes=15)
_FORGET_AT_ONCE = 1000


def register_worker(*, hostname: str, pid: int, serves: list[int] | None, id: UUID | None = None) -> Worker:
    """`serves`: whole models; None: any."""
    return Worker.objects.create(
        id=id or uuid4(), hostname=hostname, pid=pid, serves=serves, lease_expires_at=clock.now() + _lease()
    )


def renew_lease(*, worker: Worker) -> bool:
    """False where the row is gone: nobody has heard of this worker for a day.

    One that ran out is renewed as well. Who was thought dead meanwhile has lost those generations that were handed
    over, by their attempt, and keeps the others: so nothing is interrupted by a clock that was set.
    """
    said = {
        "state": worker.state,
        "model": worker.model,
        "serves": worker.serves,
        "error": worker.error,
    }
    return bool(Worker.objects.filter(id=worker.id).update(lease_expires_at=clock.now() + _lease(), **said))


def end_leases(*, worker_ids: list[UUID]) -> int:
    """These workers are known to be gone: nobody needs to wait for their leases. How many had not run out."""
    running = Worker.objects.alive().filter(id__in=worker_ids)
    return running.update(lease_expires_at=clock.now(), state=Worker.State.STOPPING)


def _lease() -> timedelta:
    return timedelta(seconds=settings.INFERENCE_LEASE_SECONDS)


def reap() -> None:
    """Hands over what dead workers ran, sends lost tasks again, ends what waited too long."""
    now = clock.now()
    # Who lives renews twice within this.
    if not clock.settled(settings.INFERENCE_LEASE_SECONDS + 1):
        _go_by_a_clock_that_was_set(now)
        return
    _recover_orphans(now)
    for generation in Generation.objects.filter(state=State.QUEUED, deadline__lt=now)[:1000]:
        services.end_unclaimed(
            generation=generation,
            state=State.FAILED,
            error_code="deadline_exceeded",
            error_message="No model worker was free in time. Try again in a moment.",
        )
    _end_unserved(now)
    _resend_lost(now)
    Worker.objects.filter(lease_expires_at__lt=now - timedelta(days=1)).delete()


def _go_by_a_clock_that_was_set(now: datetime) -> None:
    """Nothing is due by the time that was, and nobody waits for an hour that comes again: all of it starts anew now."""
    Worker.objects.filter(lease_expires_at__gt=now + _lease()).update(lease_expires_at=now + _lease())
    unfinished = Generation.objects.filter(state__in=(State.QUEUED, State.RUNNING))
    unfinished.update(deadline=now + timedelta(seconds=settings.INFERENCE_DEADLINE_SECONDS))
    unfinished.filter(sent_at__gt=now).update(sent_at=now)


def _recover_orphans(now: datetime) -> None:
    running = Generation.objects.filter(state=State.RUNNING).select_related("worker")
    for generation in running.filter(worker__lease_expires_at__lte=now) | running.filter(worker=None):
        crashes = generation.crashes + 1
        mine = Generation.objects.filter(id=generation.id, state=State.RUNNING, attempt=generation.attempt)
        if not mine.update(state=State.QUEUED, worker=None, crashes=crashes, sent_at=now):
            continue
        with on_behalf_of(generation.request_id, generation=str(generation.id)):
            logger.warning("generation %s lost its worker (%s of %s)", generation.id, crashes, MAX_CRASHES)
        if crashes >= MAX_CRASHES:
            services.end_unclaimed(
                generation=generation,
                state=State.INTERRUPTED,
                error_code="interrupted",
                error_message="This reply broke off three times. What was written so far is kept; try again.",
            )
        elif generation.cancel_requested:
            services.end_unclaimed(generation=generation, state=State.CANCELLED)
        else:
            services.send_again(generation.id)


def _resend_lost(now: datetime) -> None:
    queued = Generation.objects.filter(state=State.QUEUED)
    stuck = queued.filter(sent_at__lt=now - _LOST_AFTER).values_list(
        "id", "model_id", "model__base_id", "sent_at"
    )
    has_tasks: dict[int, bool] = {}
    for generation_id, model, base, sent_at in list(stuck[:1000]):
        task = services.Task(str(generation_id), base or model)
        if task.model not in has_tasks:
            has_tasks[task.model] = services.queue_length(task.model) > 0
        if has_tasks[task.model] and sent_at > now - _SURELY_LOST_AFTER:
            continue
        if queued.filter(id=generation_id).update(sent_at=now):
            services.send_tasks([task])


def _end_unserved(now: datetime) -> None:
    """What waits for a model that nobody serves any more. Where the site has just started, others are yet to come."""
    workers = Workers()
    if not workers.have_settled:
        return
    # By the deadline, since `created_at` is of another host's clock.
    asked_before = now - ABSENT_AFTER + timedelta(seconds=settings.INFERENCE_DEADLINE_SECONDS)
    queued = Generation.objects.filter(state=State.QUEUED, deadline__lt=asked_before)
    for generation in queued.select_related("model").order_by("created_at")[:1000]:
        if not workers.serve(generation.model.whole_id):
            refusal = not_served(generation.model)
            services.end_unclaimed(
                generation=generation,
                state=State.FAILED,
                error_code=refusal.code,
                error_message=refusal.message,
            )


def forget_unread() -> None:
    """Deletes what was judged for nobody any more. (What an API call asked for is the API's to keep.)"""
    judged = Generation.objects.filter(purpose="classification", call_id=None, state__in=Generation.TERMINAL)
    left = judged.filter(finished_at__lt=timezone.now() - _UNREAD_AFTER).values_list("id", flat=True)
    while ids := list(left[:_FORGET_AT_ONCE]):
        services.delete_generations(ids=ids)
