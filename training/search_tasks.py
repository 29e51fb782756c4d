"""Tells the workers that a search may go on: one of its trials has ended, or can be judged. Knows nothing of how.

A task lost or sent twice changes nothing: the rows say what is to be done, and the reaper asks again.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from functools import partial
from uuid import UUID

from celery import current_app
from django.db import transaction
from django.db.models import Q
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from training.models import Search
from webapp.core import clock

logger = logging.getLogger(__name__)

# Workers of data have optuna, and no job of hours is before it.
QUEUE = "data"
# Where they are busy, what the reaper sent is no use by the time it has sent another.
_EXPIRES = 10  # seconds
# A worker may die between the end of a search and the removal of what its trials leave: for so long it is asked for.
_TIDIED = timedelta(minutes=10)


def send_search(search_id: UUID) -> None:
    """Once this commits."""
    transaction.on_commit(partial(_send, search_id))


def reap() -> None:
    wanted = Q(finished_at=None) | Q(finished_at__gt=clock.now() - _TIDIED)
    for search_id in Search.objects.filter(wanted).values_list("id", flat=True):
        _send(search_id, expires=_EXPIRES)


def _send(search_id: UUID, **options: int) -> None:
    try:
        current_app.send_task("search.advance", [str(search_id)], queue=QUEUE, retry=False, **options)
    except (OperationalError, RedisError, OSError) as error:
        logger.warning("task of search %s not sent, the reaper will: %s", search_id, error)
