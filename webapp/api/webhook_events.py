"""What webhooks are told, and when: events of fine-tunes, recorded in the transaction that changes the job.

Knows nothing of how they are delivered.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from celery import current_app
from django.db import transaction
from django.db.models.signals import post_save
from django.dispatch import receiver
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from training.models import Job, JobEvent
from webapp.api.models import Webhook, WebhookDelivery
from webapp.core import clock

logger = logging.getLogger(__name__)

TYPES = {
    "fine_tuning.job.created": _("A fine-tune was created"),
    "fine_tuning.job.running": _("A fine-tune began, or goes on"),
    "fine_tuning.job.succeeded": _("A fine-tune succeeded"),
    "fine_tuning.job.failed": _("A fine-tune failed"),
    "fine_tuning.job.cancelled": _("A fine-tune was cancelled"),
}
TEST = "webhook.test"
# By the code of the job's event. The states are looked at, too: a code alone is only a word.
_OF_JOBS = {
    "created": ("fine_tuning.job.created", (Job.State.QUEUED, Job.State.VALIDATING_FILES)),
    "started": ("fine_tuning.job.running", (Job.State.RUNNING,)),
    "succeeded": ("fine_tuning.job.succeeded", (Job.State.SUCCEEDED,)),
    "failed": ("fine_tuning.job.failed", (Job.State.FAILED,)),
    "cancelled": ("fine_tuning.job.cancelled", (Job.State.CANCELLED,)),
}


@receiver(post_save, sender=JobEvent)
def on_job_event(sender: object, instance: JobEvent, created: bool, **_kwargs: Any) -> None:
    """Inside the transaction that changed the job. Trials and folds are the search's own business."""
    type_, states = _OF_JOBS.get(instance.code, ("", ()))
    job = instance.job
    if created and job.state in states and job.search_id is None:
        tell(workspace_id=job.workspace_id, type_=type_, data=partial(job_data, job))


def job_data(job: Job) -> dict[str, Any]:
    """What is said of a job: enough to act on; GET /v1/fine_tuning/jobs/ID has the rest."""
    failure = {"code": job.error_code, "message": job.error_message}
    return {
        "id": str(job.pk),
        "status": str(job.state),
        "model": job.base.name if job.base else None,
        "fine_tuned_model": job.model.name if job.model and job.state == Job.State.SUCCEEDED else None,
        "error": failure if job.state == Job.State.FAILED else None,
    }


def sample_data(type_: str) -> dict[str, Any]:
    """Of a test: as the real ones, and no receiver can take it for one."""
    if type_ == TEST:
        return {"test": True}
    state = type_.rpartition(".")[2].replace("created", "queued")
    succeeded, failed = state == "succeeded", state == "failed"
    return {
        "id": str(uuid.UUID(int=0)),
        "status": state,
        "model": "example",
        "fine_tuned_model": "ft:example:test" if succeeded else None,
        "error": {"code": "test", "message": "This is a test."} if failed else None,
        "test": True,
    }


def tell(*, workspace_id: uuid.UUID, type_: str, data: Callable[[], dict[str, Any]]) -> None:
    """Records a delivery for each of the workspace's webhooks that wants this type; sent when it commits.

    `data` is asked for only where there is one.
    """
    wanting = [
        webhook
        for webhook in Webhook.objects.filter(workspace_id=workspace_id, is_active=True)
        if type_ in webhook.events
    ]
    if not wanting:
        return
    now, body = clock.now(), event_body(type_, data())
    WebhookDelivery.objects.bulk_create(
        WebhookDelivery(webhook=webhook, type=type_, body=body, next_at=now) for webhook in wanting
    )
    transaction.on_commit(_send)


def event_body(type_: str, data: dict[str, Any]) -> str:
    """As OpenAI's webhooks have it. Every webhook is sent the same event, with the same id."""
    event = {
        "id": f"evt_{uuid.uuid4().hex}",
        "object": "event",
        "type": type_,
        "created_at": int(timezone.now().timestamp()),
        "data": data,
    }
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))


def _send() -> None:
    try:
        current_app.send_task("api.deliver_webhooks", queue="default", retry=False)
    except (OperationalError, RedisError, OSError) as error:
        logger.warning("webhooks are delivered later, the broker is away: %s", error)
