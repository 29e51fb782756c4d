"""Permission-checked reads of webhooks and what was sent to them. They are for a workspace's owners and admins."""

from __future__ import annotations

import uuid

from django.db.models import QuerySet
from django.utils.translation import gettext as _

from webapp.accounts.access import AdminsOnly
from webapp.accounts.models import Membership
from webapp.api.models import Webhook, WebhookDelivery
from webapp.core.errors import NotFound
from webapp.core.ids import as_uuid


def list_webhooks(membership: Membership) -> QuerySet[Webhook]:
    """The workspace's, oldest first. Raises AdminsOnly for other members."""
    if not membership.is_admin:
        raise AdminsOnly
    return Webhook.objects.filter(workspace=membership.workspace_id).select_related("workspace")


def get_webhook(membership: Membership, webhook_id: uuid.UUID | str) -> Webhook:
    """Raises AdminsOnly, NotFound."""
    key = as_uuid(webhook_id)
    webhook = list_webhooks(membership).filter(pk=key).first() if key else None
    if webhook is None:
        raise NotFound(_("That webhook"))
    return webhook


def list_deliveries(webhook: Webhook) -> QuerySet[WebhookDelivery]:
    """Newest first. `webhook` comes from `get_webhook`."""
    return WebhookDelivery.objects.filter(webhook=webhook).select_related("webhook")


def get_delivery(webhook: Webhook, delivery_id: uuid.UUID | str) -> WebhookDelivery:
    """Raises NotFound."""
    key = as_uuid(delivery_id)
    delivery = list_deliveries(webhook).filter(pk=key).first() if key else None
    if delivery is None:
        raise NotFound(_("That delivery"))
    return delivery
