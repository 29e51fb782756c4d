"""The Celery side of data: thin. A worker of queue `data` does the work, `default` runs the reaper."""

from __future__ import annotations

from celery import shared_task

from training import uploads, work


@shared_task(name="data.run")
def run(work_id: str) -> None:
    """Delivered once or more; all but the first delivery find the row claimed and do nothing."""
    # Only here: what reads and counts is not installed where nothing but pages are served.
    from training.data_worker import run_work

    run_work(work_id)


@shared_task(name="data.reap")
def reap() -> None:
    work.reap()
    uploads.remove_abandoned()
