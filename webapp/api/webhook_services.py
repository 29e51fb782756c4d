"""Every write to webhooks that a person asks for. What happens by the clock is in webhook_delivery.py.

Who may do it, `webhook_access` has said.
"""

from __future__ import annotations

from datetime import timedelta

from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _

from webapp.accounts.audit import record_audit
from webapp.accounts.models import User, Workspace
from webapp.api import webhook_delivery
from webapp.api.models import Webhook, WebhookDelivery
from webapp.api.webhook_events import TEST, TYPES, event_body, sample_data
from webapp.api.webhook_signing import new_secret
from webapp.core import clock
from webapp.core.errors import UserError
from webapp.core.locks import lock_until_commit

MAX_WEBHOOKS = 20  # of one workspace
MAX_URL = 500
OLD_SECRET_SIGNS_FOR = timedelta(hours=24)
# Attempts at a person's word in a minute: this site is nobody's tool to knock at other people's doors.
_MAX_BY_HAND, _BY_HAND_SECONDS = 20, 60


@transaction.atomic
def create_webhook(
    *,
    user: User,
    workspace: Workspace,
    name: str,
    url: str,
    events: list[str],
    request: HttpRequest | None = None,
) -> Webhook:
    """With a new secret, which is shown now and not again. Raises UserError `bad_name`, `bad_events`,
    `too_many_webhooks`, and what `check_url` raises."""
    lock_until_commit(f"api.webhooks.{workspace.pk}")
    if Webhook.objects.filter(workspace=workspace).count() >= MAX_WEBHOOKS:
        raise UserError(
            "too_many_webhooks",
            _("This workspace has %(limit)s webhooks, which is the most. Delete one that is not used.")
            % {"limit": MAX_WEBHOOKS},
            status=409,
        )
    webhook = Webhook.objects.create(
        workspace=workspace,
        created_by=user,
        name=_clean_name(name),
        url=_clean_url(url),
        events=_clean_events(events),
        secret=new_secret(),
    )
    _record("webhook_created", webhook, user, request)
    return webhook


@transaction.atomic
def update_webhook(
    *,
    webhook: Webhook,
    by: User,
    name: str | None = None,
    url: str | None = None,
    events: list[str] | None = None,
    is_active: bool | None = None,
    request: HttpRequest | None = None,
) -> Webhook:
    """What is None stays. Raises UserError as `create_webhook`. Switched off, it gives up what was on its way; switched
    on, it is trusted anew."""
    before = (webhook.name, webhook.url, list(webhook.events), webhook.is_active)
    changes: dict[str, object] = {}
    if name is not None:
        changes["name"] = _clean_name(name)
    if url is not None and url != webhook.url:
        changes |= {"url": _clean_url(url), "failing_since": None}
    if events is not None:
        changes["events"] = _clean_events(events)
    if is_active is False and webhook.is_active:
        webhook_delivery.switch_off(webhook.pk, Webhook.Off.PERSON)
        changes |= {"is_active": False, "off_because": Webhook.Off.PERSON}
    elif is_active and not webhook.is_active:
        changes |= {"is_active": True, "off_because": Webhook.Off.NOT, "failing_since": None}
    _change(webhook, changes)
    if (webhook.name, webhook.url, list(webhook.events), webhook.is_active) != before:
        _change(webhook, {"updated_at": timezone.now()})
        _record("webhook_changed", webhook, by, request)
    return webhook


@transaction.atomic
def roll_secret(
    *, webhook: Webhook, by: User, keep_old: bool = False, request: HttpRequest | None = None
) -> str:
    """The new one, which is shown now and not again. With `keep_old` the one before signs, too, for a day."""
    now = timezone.now()
    _change(
        webhook,
        {
            "previous_secret": webhook.secret if keep_old else "",
            "previous_until": now + OLD_SECRET_SIGNS_FOR if keep_old else None,
            "secret": new_secret(),
            "updated_at": now,
        },
    )
    _record("webhook_secret_rolled", webhook, by, request)
    return webhook.secret


@transaction.atomic
def delete_webhook(*, webhook: Webhook, by: User, request: HttpRequest | None = None) -> None:
    """With what was sent to it and what is on its way."""
    _record("webhook_deleted", webhook, by, request)
    webhook.delete()


def send_test(*, webhook: Webhook, type_: str = TEST) -> WebhookDelivery:
    """Sends a made-up event, waits for the answer (10 seconds at most), and tries no second time.

    Not in a transaction, which would be open as long. Raises UserError `bad_events`, `webhook_off`, `too_many_tries`.
    """
    if type_ not in (TEST, *TYPES):
        raise _unknown_events([type_], "event_type")
    _check_by_hand(webhook)
    delivery = WebhookDelivery.objects.create(
        webhook=webhook, type=type_, body=event_body(type_, sample_data(type_)), is_test=True
    )
    return _attempt(delivery)


def send_again(*, delivery: WebhookDelivery) -> WebhookDelivery:
    """The same event under the same webhook-id, whether it had arrived or not. Waits for the answer, as `send_test`.

    Raises UserError `webhook_off`, `under_way`, `too_many_tries`.
    """
    _check_by_hand(delivery.webhook)
    if delivery.is_under_way:
        raise _under_way()
    return _attempt(delivery)


def _attempt(delivery: WebhookDelivery) -> WebhookDelivery:
    if not webhook_delivery.claim(delivery):
        raise _under_way()
    webhook_delivery.record(delivery, webhook_delivery.post(delivery))
    return delivery


def _under_way() -> UserError:
    return UserError(
        "under_way",
        _("It is being sent at this moment. Look at what comes of it first."),
        status=409,
        retry_after=10,
    )


def _check_by_hand(webhook: Webhook) -> None:
    if not webhook.is_active:
        raise UserError(
            "webhook_off", _("This webhook is switched off. Switch it on to send anything."), status=409
        )
    since = clock.now() - timedelta(seconds=_BY_HAND_SECONDS)
    lately = WebhookDelivery.objects.filter(webhook__workspace=webhook.workspace_id, tried_at__gt=since)
    if lately.count() >= _MAX_BY_HAND:
        raise UserError(
            "too_many_tries",
            _("Much was sent within the last minute. Wait one, and try again."),
            status=429,
            retry_after=_BY_HAND_SECONDS,
        )


def _clean_name(name: str) -> str:
    name = " ".join(name.split())
    if not name or len(name) > 80 or not name.isprintable():
        raise UserError("bad_name", _("A webhook needs a name of 1 to 80 letters."), param="name")
    return name


def _clean_url(url: str) -> str:
    if len(url) > MAX_URL:
        raise UserError(
            "bad_url", _("An address has %(limit)s letters at most.") % {"limit": MAX_URL}, param="url"
        )
    # With an HTTP client, which nothing else about a webhook's row needs.
    from webapp.core.ssrf import check_url

    check_url(url)
    return url


def _clean_events(events: list[str]) -> list[str]:
    unknown = [type_ for type_ in events if type_ not in TYPES]
    if unknown or not events:
        raise _unknown_events(unknown, "event_types")
    return [type_ for type_ in TYPES if type_ in events]


def _unknown_events(unknown: list[str], param: str) -> UserError:
    message = _("Choose at least one of these events: %(types)s.") % {"types": ", ".join(TYPES)}
    return UserError("bad_events", message, param=param)


def _change(webhook: Webhook, changes: dict[str, object]) -> None:
    for field, value in changes.items():
        setattr(webhook, field, value)
    if changes:
        webhook.save(update_fields=[*changes])


def _record(action: str, webhook: Webhook, user: User, request: HttpRequest | None) -> None:
    record_audit(
        action=action,
        actor=user,
        workspace=webhook.workspace,
        request=request,
        detail={"webhook": str(webhook.pk)},
    )
