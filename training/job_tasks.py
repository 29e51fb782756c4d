"""Tells the workers that jobs which wait for their files may go on. Knows nothing of how.

A task lost or sent twice changes nothing: the rows say what is to be done, and the reaper looks again.
"""

from __future__ import annotations

import logging

from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from training.models import Job

logger = logging.getLogger(__name__)


def send_prepare() -> None:
    """Once this commits, if there is such a job."""
    transaction.on_commit(_send)


def _send() -> None:
    if not Job.objects.filter(state=Job.State.VALIDATING_FILES).exists():
        return
    try:
        current_app.send_task("jobs.prepare", retry=False)
    except (OperationalError, RedisError, OSError) as error:
        logger.warning("task of preparing jobs not sent, the reaper will: %s", error)
