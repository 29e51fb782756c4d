"""Tells open pages that a job changed, over the channel layer: which one, and nothing of what. Pages read the rows.

A message lost here costs a reload, not data.
"""

from __future__ import annotations

import logging
from functools import partial
from uuid import UUID

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import transaction

from training.models import Job

logger = logging.getLogger(__name__)


def job_group(job_id: UUID) -> str:
    """Who looks at one job."""
    return f"job_{job_id.hex}"


def job_changed(job: Job) -> None:
    """Sends {"type": "job.changed", "job": ID} on commit. Never raises."""
    transaction.on_commit(partial(_tell, job.id))


def _tell(job_id: UUID) -> None:
    group = job_group(job_id)
    try:
        async_to_sync(get_channel_layer().group_send)(group, {"type": "job.changed", "job": str(job_id)})
    except Exception:
        logger.warning("pages of %s were not told of a change", group, exc_info=True)
