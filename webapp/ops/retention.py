"""What is kept how long: RETENTION_..._DAYS, each kind's in one place. 0 keeps it for good.

Rows go through the services that delete them when a person does, a few at a time, so nobody waits for their locks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet

from inference import usage
from inference.models import UsageDay
from training import job_services
from training import services as training
from training.models import Dataset, Job
from webapp.accounts import services as accounts
from webapp.accounts.models import AuditEvent, Invitation
from webapp.api import services as api
from webapp.api import webhook_delivery
from webapp.api.models import Completion, WebhookDelivery
from webapp.chat import services as chat
from webapp.chat.models import Conversation
from webapp.core import clock
from webapp.core.errors import UserError

_AT_ONCE = 100


@dataclass(frozen=True)
class Rule:
    """`old` finds what has passed its time at a moment, `delete` deletes those of these ids that still have."""

    setting: str
    what: str
    old: Callable[[datetime], QuerySet[Any]]
    delete: Callable[[list[Any], datetime], None]


def retain(*, now: datetime, dry_run: bool = False) -> Iterable[tuple[str, int, int]]:
    """Deletes what has passed its time; of each kind what it is, its days, and how many went, or would go."""
    for rule in RULES:
        days: int = getattr(settings, rule.setting)
        if not days:
            continue
        before = now - timedelta(days=days)
        count = rule.old(before).count()
        if not dry_run:
            _delete(rule, before)
            # What is left is in use, or somebody has come back to it.
            count -= rule.old(before).count()
        yield rule.what, days, count


def _delete(rule: Rule, before: datetime) -> None:
    rows = rule.old(before).order_by("pk")
    ids = list(rows.values_list("pk", flat=True)[:_AT_ONCE])
    while ids:
        rule.delete(ids, before)
        ids = list(rows.filter(pk__gt=ids[-1]).values_list("pk", flat=True)[:_AT_ONCE])


# --- conversations -------------------------------------------------------------------------------------------
def _old_conversations(before: datetime) -> QuerySet[Conversation]:
    return Conversation.objects.filter(updated_at__lt=before)


def _delete_conversations(ids: list[Any], before: datetime) -> None:
    for pk in ids:
        with transaction.atomic():
            # Locked, so that nobody goes on with it between the look and the end.
            locked = _old_conversations(before).select_for_update(of=("self",)).filter(pk=pk).first()
            if locked is not None:
                chat.delete_conversation(conversation=locked)


# --- the API -------------------------------------------------------------------------------------------------
def _old_completions(before: datetime) -> QuerySet[Completion]:
    return Completion.objects.filter(created_at__lt=before)


def _old_deliveries(before: datetime) -> QuerySet[WebhookDelivery]:
    return WebhookDelivery.objects.filter(created_at__lt=before).exclude(state=WebhookDelivery.State.PENDING)


# --- data ----------------------------------------------------------------------------------------------------
def _old_datasets(before: datetime) -> QuerySet[Dataset]:
    used = Job.objects.exclude(version=None).values("version__dataset")
    return Dataset.objects.filter(updated_at__lt=before).exclude(pk__in=used)


def _delete_datasets(ids: list[Any], before: datetime) -> None:
    for dataset in _old_datasets(before).filter(pk__in=ids).select_related("workspace"):
        try:
            training.delete_dataset(dataset=dataset, user=None)
        except UserError:
            continue  # something has begun with it


def _checkpoints(setting: str, how: str, state: str) -> Rule:
    return Rule(
        setting,
        f"folders of checkpoints of {how} fine-tunes",
        lambda before: job_services.ended_and_kept(state, before),
        lambda ids, before: job_services.forget_checkpoints(state=state, ids=ids, before=before),
    )


# --- usage ---------------------------------------------------------------------------------------------------
def _old_usage(before: datetime) -> QuerySet[UsageDay]:
    """A month's limit looks at all of that month."""
    return UsageDay.objects.filter(day__lt=min(before.date(), clock.now().date().replace(day=1)))


RULES = (
    Rule(
        "RETENTION_CONVERSATIONS_DAYS",
        "conversations nobody went on with",
        _old_conversations,
        _delete_conversations,
    ),
    Rule(
        "RETENTION_API_DAYS",
        "stored completions and responses of the API",
        _old_completions,
        lambda ids, before: api.delete_completions(ids=ids),
    ),
    Rule(
        "RETENTION_DATASETS_DAYS",
        "datasets no fine-tune has learnt from",
        _old_datasets,
        _delete_datasets,
    ),
    _checkpoints("RETENTION_CANCELLED_DAYS", "cancelled", Job.State.CANCELLED),
    _checkpoints("RETENTION_FAILED_DAYS", "failed", Job.State.FAILED),
    Rule(
        "RETENTION_WEBHOOKS_DAYS",
        "webhook deliveries",
        _old_deliveries,
        lambda ids, before: webhook_delivery.delete_deliveries(ids=ids),
    ),
    Rule(
        "RETENTION_USAGE_DAYS",
        "days of usage",
        _old_usage,
        lambda ids, before: usage.delete_days(ids=ids),
    ),
    Rule(
        "RETENTION_AUDIT_DAYS",
        "audit events",
        lambda before: AuditEvent.objects.filter(at__lt=before),
        lambda ids, before: accounts.delete_audit_events(ids=ids),
    ),
    Rule(
        "RETENTION_INVITATIONS_DAYS",
        "invitations that have expired",
        lambda before: Invitation.objects.filter(expires_at__lt=before),
        lambda ids, before: accounts.delete_invitations(ids=ids),
    ),
)
