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


def jobs_group(workspace_id: UUID) -> str:
    """Who looks at a workspace's list: it hears of changes of state only."""
    return f"jobs_{workspace_id.hex}"


def job_changed(job: Job, *, state: bool = False) -> None:
    """Sends {"type": "job.changed", "job": ID} on commit. `state`: its state is another. Never raises."""
    groups = [job_group(job.id), *([jobs_group(job.workspace_id)] if state else [])]
    transaction.on_commit(partial(_tell, groups, str(job.id)))


def _tell(groups: list[str], job_id: str) -> None:
    for group in groups:
        try:
            async_to_sync(get_channel_layer().group_send)(group, {"type": "job.changed", "job": job_id})
        except Exception:
            logger.warning("pages of %s were not told of a change", group, exc_info=True)
