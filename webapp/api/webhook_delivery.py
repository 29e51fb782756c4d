"""Deliveries to webhooks: claimed, sent, recorded, tried again. Knows nothing of what they say.

    pending -> delivered | failed, by way of pending again

An attempt is claimed by compare-and-set on the number of attempts before it, so that of two workers only one sends it.
Who claims it has a lease; where nothing more is heard, the next attempt follows: a receiver may get an event twice, and
tells by its webhook-id. Only this module's own threads talk to receivers, so none of them holds up the other tasks.
"""

from __future__ import annotations

import collections
import logging
import random
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext_noop
from prometheus_client import Counter

from webapp.accounts.audit import record_audit
from webapp.api.models import Webhook, WebhookDelivery
from webapp.api.webhook_signing import signed_headers
from webapp.core import clock
from webapp.core.metrics import registry

logger = logging.getLogger(__name__)
_attempts = Counter(
    "flywheel_webhook_attempts", "Attempts to deliver an event to a webhook.", ["result"], registry=registry
)
State = WebhookDelivery.State
Off = Webhook.Off

SECONDS = 10.0  # of one attempt
# Longer than any attempt takes.
LEASE = timedelta(seconds=60)
# Pauses of 5 s, 20 s, 80 s, ... and of a day at most come to three days and six hours.
MAX_ATTEMPTS = 11
_FIRST_PAUSE, _GROWTH, _LONGEST_PAUSE = 5.0, 4.0, 86_400.0
_JITTER = 0.2
# Nothing arrived for so long: it is switched off.
FAILING_FOR = timedelta(days=3)
# At once, and of them to one webhook: a slow receiver is not everybody's.
_AT_ONCE, _AT_ONCE_TO_ONE = 8, 2

# Rows keep sentences in English; pages translate them.
ANSWERED_ERROR = gettext_noop("It answered with an error.")
ANSWERED_GONE = gettext_noop("It answered that it is gone for good (410).")
ANSWERED_REDIRECT = gettext_noop("It answered that it is at another address: enter that one.")
SWITCHED_OFF = gettext_noop("The webhook was switched off before it arrived.")


@dataclass(frozen=True)
class Outcome:
    status: int | None
    error: str  # "" where it arrived
    retry_after: float = 0.0  # seconds the receiver asked for


# --- by the clock -------------------------------------------------------------------------------------------

_wanted, _running = threading.Event(), threading.Lock()


def deliver_due() -> None:
    """Sends all that is due, and returns when nothing is. One at a time in a process: the others have it done."""
    _wanted.set()
    # Whoever asks while the last one ends is not forgotten: it is looked at again with the lock free.
    while _wanted.is_set() and _running.acquire(blocking=False):
        try:
            _wanted.clear()
            _deliver_due()
        finally:
            _running.release()


def _deliver_due() -> None:
    running: dict[Future[Outcome], WebhookDelivery] = {}
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="webhook") as pool:
        while True:
            # The database is this thread's alone.
            for delivery in _claim_due(collections.Counter(d.webhook_id for d in running.values())):
                running[pool.submit(post, delivery)] = delivery
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                record(running.pop(future), future.result())


def _claim_due(running: collections.Counter[UUID]) -> list[WebhookDelivery]:
    claimed: list[WebhookDelivery] = []
    while len(claimed) + running.total() < _AT_ONCE:
        full = [webhook for webhook, count in running.items() if count >= _AT_ONCE_TO_ONE]
        due = WebhookDelivery.objects.filter(
            state=State.PENDING, next_at__lte=clock.now(), webhook__is_active=True
        )
        delivery = due.exclude(webhook__in=full).select_related("webhook").order_by("next_at").first()
        if delivery is None:
            break
        if claim(delivery):
            claimed.append(delivery)
            running = running + collections.Counter([delivery.webhook_id])
    return claimed


# --- one attempt --------------------------------------------------------------------------------------------


def claim(delivery: WebhookDelivery) -> bool:
    """The next attempt is the caller's: `post` it and `record` what came of it. False where another was faster."""
    now = clock.now()
    fields = {"state": State.PENDING, "next_at": now + LEASE, "tried_at": now, "status": None, "error": ""}
    mine = WebhookDelivery.objects.filter(
        pk=delivery.pk, state=delivery.state, attempts=delivery.attempts, next_at=delivery.next_at
    )
    if not mine.update(attempts=F("attempts") + 1, **fields):
        return False
    delivery.attempts += 1
    for name, value in fields.items():
        setattr(delivery, name, value)
    return True


def post(delivery: WebhookDelivery) -> Outcome:
    """Sends it, signed as of now. Touches no row."""
    # With an HTTP client, which most processes that import this module never need.
    from webapp.core.ssrf import OutboundError, send

    webhook, body, now = delivery.webhook, delivery.body.encode(), timezone.now()
    keys = [webhook.secret]
    if webhook.previous_until is not None and webhook.previous_until > now:
        keys.append(webhook.previous_secret)
    headers = signed_headers(
        message_id=str(delivery.pk), timestamp=int(now.timestamp()), body=body, keys=keys
    )
    headers |= {"Content-Type": "application/json", "User-Agent": "Flywheel-Webhooks/1"}
    try:
        answer = send("POST", webhook.url, headers=headers, content=body, seconds=SECONDS, max_bytes=0)
    except OutboundError as error:
        return Outcome(None, error.sentence)
    except Exception:  # whatever it is, it is this receiver's and must not end the others'
        logger.exception("a webhook could not be sent")
        return Outcome(None, ANSWERED_ERROR)
    if 200 <= answer.status < 300:
        return Outcome(answer.status, "")
    if 300 <= answer.status < 400:
        return Outcome(answer.status, ANSWERED_REDIRECT)
    if answer.status == 410:
        return Outcome(answer.status, ANSWERED_GONE)
    asked = answer.headers.get("Retry-After", "")
    return Outcome(answer.status, ANSWERED_ERROR, float(asked) if asked.isdecimal() else 0.0)


@transaction.atomic
def record(delivery: WebhookDelivery, outcome: Outcome) -> None:
    """What came of an attempt. Nothing, where its lease had run out and another followed."""
    now, arrived = clock.now(), not outcome.error
    gives_up = delivery.is_test or delivery.attempts >= MAX_ATTEMPTS or outcome.status == 410
    state = State.DELIVERED if arrived else State.FAILED if gives_up else State.PENDING
    fields = {
        "state": state,
        "status": outcome.status,
        "error": outcome.error,
        "next_at": now + pause(delivery.attempts, outcome.retry_after) if state == State.PENDING else None,
    }
    mine = WebhookDelivery.objects.filter(pk=delivery.pk, state=State.PENDING, attempts=delivery.attempts)
    if not mine.update(**fields):
        return
    _attempts.labels("arrived" if arrived else "failed").inc()
    for name, value in fields.items():
        setattr(delivery, name, value)
    webhook = Webhook.objects.filter(pk=delivery.webhook_id)
    if arrived:
        webhook.exclude(failing_since=None).update(failing_since=None)
    elif not delivery.is_test:
        webhook.filter(failing_since=None).update(failing_since=now)
        if outcome.status == 410:
            _give_up(delivery.webhook_id, Off.GONE)
        elif webhook.filter(failing_since__lte=now - FAILING_FOR).exists():
            _give_up(delivery.webhook_id, Off.FAILING)


def pause(attempts: int, asked: float = 0.0) -> timedelta:
    """Before the next attempt, after so many. As long as the receiver `asked` for, if that is longer; never longer than
    a day or so. A part of it is chance, so that what failed together does not come back together."""
    seconds = min(_FIRST_PAUSE * _GROWTH ** (attempts - 1), _LONGEST_PAUSE)
    seconds *= random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311  nobody gains by guessing it
    return timedelta(seconds=max(seconds, min(asked, _LONGEST_PAUSE)))


# --- switching off ------------------------------------------------------------------------------------------


def switch_off(webhook_id: UUID, because: Off) -> bool:
    """In a transaction. What was on its way is given up. False where it was off already."""
    if not Webhook.objects.filter(pk=webhook_id, is_active=True).update(is_active=False, off_because=because):
        return False
    WebhookDelivery.objects.filter(webhook=webhook_id, state=State.PENDING).update(
        state=State.FAILED, next_at=None, error=SWITCHED_OFF
    )
    return True


def _give_up(webhook_id: UUID, because: Off) -> None:
    if switch_off(webhook_id, because):
        webhook = Webhook.objects.select_related("workspace").get(pk=webhook_id)
        logger.warning("webhook %s was switched off: %s", webhook_id, because)
        record_audit(
            action="webhook_given_up",
            workspace=webhook.workspace,
            detail={"webhook": str(webhook_id), "because": str(because)},
        )


def prune(now: datetime | None = None) -> None:
    """Secrets that no longer sign."""
    if now is None and (now := clock.deletion_time()) is None:
        return
    Webhook.objects.filter(previous_until__lte=now).update(previous_secret="", previous_until=None)


def delete_deliveries(*, ids: list[UUID]) -> None:
    """What was sent, and what came of it."""
    WebhookDelivery.objects.filter(pk__in=ids).delete()
