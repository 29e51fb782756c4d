"""The Celery side: thin. Workers of queues `data` and `training` do the work, `default` runs the reapers."""

from __future__ import annotations

import sys
from typing import Any
from uuid import UUID

from celery import shared_task
from celery.signals import worker_ready, worker_shutting_down

from training import job_files, job_life, search_tasks, uploads, warming, work


@shared_task(name="data.run")
def run(work_id: str) -> None:
    """Delivered once or more; all but the first delivery find the row claimed and do nothing."""
    # Only here: what reads and counts is not installed where nothing but pages are served.
    from training.data_worker import run_in_turn

    run_in_turn(work_id)


@worker_ready.connect
def _be_quick_from_the_first(sender: Any, **_: Any) -> None:
    if "data" in sender.app.amqp.queues.consume_from:
        warming.begin()


@shared_task(name="data.reap")
def reap() -> None:
    work.reap()
    uploads.remove_abandoned()


@shared_task(name="training.run")
def train() -> None:
    """Delivered once or more: whose turn it is says the database, and nothing is done where nobody waits."""
    from training.training_worker import run_next

    run_next()


@worker_shutting_down.connect
def _stop(**_: Any) -> None:
    """Runs inside a signal handler; Celery then waits for its tasks: for the trainer to save, and for the data that is
    worked on just now. What would have come then is sent again.
    """
    if trains := sys.modules.get("training.training_worker"):
        trains.stopping.set()
    if reads := sys.modules.get("training.data_worker"):
        reads.turns.end()


@shared_task(name="jobs.prepare")
def prepare_jobs() -> None:
    """Delivered any number of times: what is to be done is in the rows."""
    job_files.advance_all()


@shared_task(name="jobs.reap")
def reap_jobs() -> None:
    job_life.reap()
    job_files.advance_all()
    search_tasks.reap()


@shared_task(name="search.advance")
def advance_search(search_id: str) -> None:
    """Delivered any number of times: what is to be done is in the rows. On the queue whose workers have optuna."""
    from training.search import advance

    advance(UUID(search_id))
