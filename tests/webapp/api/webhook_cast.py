"""What tests of webhooks share: a receiver that the site may reach, a webhook at it, and a job to tell of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.utils import timezone

from inference.models import ServedModel
from tests.webapp.receiver import Receiver, receiving
from training import job_life
from training.models import Job
from webapp.accounts.models import User, Workspace
from webapp.api import webhook_services
from webapp.api.models import Webhook
from webapp.api.webhook_events import TYPES
from webapp.core.public_addresses import Allowed

MakeWebhook = Callable[..., Webhook]


@pytest.fixture
def receiver(settings: Any) -> Iterator[Receiver]:
    """Somebody's server; the site is allowed to reach it although it is on this machine."""
    settings.OUTBOUND_ALLOW = Allowed.parse(["127.0.0.1"], variable="OUTBOUND_ALLOW")
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def make_webhook(workspace: Workspace, alice: User, receiver: Receiver) -> MakeWebhook:
    def make(**changes: Any) -> Webhook:
        asked: dict[str, Any] = {
            "user": alice, "workspace": workspace, "name": "deploy", "url": receiver.url("/in"), "events": list(TYPES),
        }  # fmt: skip
        return webhook_services.create_webhook(**asked | changes)

    return make


@pytest.fixture
def webhook(make_webhook: MakeWebhook) -> Webhook:
    """Alice's, told of everything."""
    return make_webhook()


def make_job(workspace: Workspace, **changes: Any) -> Job:
    base, _new = ServedModel.objects.get_or_create(
        name="tiny",
        defaults={
            "path": "tiny", "digest": "0", "architecture": "llama", "context_length": 100, "parameters": 1,
            "size_bytes": 1,
        },
    )  # fmt: skip
    fields = {
        "workspace": workspace, "name": "support", "task": "chat", "data_label": "Support, 1", "data_hash": "0",
        "base": base, "spec": {}, "sent_at": timezone.now(),
    }  # fmt: skip
    return Job.objects.create(**fields | changes)


def happens(job: Job, state: str, **fields: Any) -> None:
    """The job ends, as its worker would have it."""
    Job.objects.filter(pk=job.pk).update(state=Job.State.RUNNING, heartbeat_at=timezone.now())
    job.refresh_from_db()
    assert job_life.end(job, state, **fields)
