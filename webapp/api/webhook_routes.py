"""/v1/webhook_endpoints: who is told of events, as OpenAI's API has it; and what was sent, which is our own."""

from __future__ import annotations

from typing import Any, Literal

from django.http import HttpRequest
from ninja import Query, Router, Schema
from pydantic import ConfigDict, Field

from webapp.api import webhook_access, webhook_services
from webapp.api.auth import Needs
from webapp.api.callers import caller
from webapp.api.idempotency import keeps_a_secret, repeatable
from webapp.api.lists import page_by_time, place_of
from webapp.api.models import Webhook, WebhookDelivery
from webapp.api.webhook_events import TYPES

router = Router(auth=Needs("admin"))
event_types_router = Router(auth=Needs("admin"))

EventType = Literal[
    "fine_tuning.job.created",
    "fine_tuning.job.running",
    "fine_tuning.job.succeeded",
    "fine_tuning.job.failed",
    "fine_tuning.job.cancelled",
]


class WebhookEndpoint(Schema):
    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    name: str
    url: str
    event_types: list[str]
    is_active: bool
    off_because: Literal["person", "gone", "failing"] | None  # a person's wish, a 410, days without success
    signing_secret_hint: str
    created_at: int
    updated_at: int


class WebhookEndpointWithSecret(WebhookEndpoint):
    signing_secret: str


class WebhookEndpoints(Schema):
    object: Literal["list"] = "list"
    data: list[WebhookEndpoint]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedWebhookEndpoint(Schema):
    id: str
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: Literal[True] = True


class WebhookTestResult(Schema):
    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    webhook_endpoint_id: str
    event_type: str
    success: bool  # whether the endpoint answered at all
    status_code: int  # what it answered; 0 where it did not
    error: str | None


class WebhookEndpointDelivery(Schema):
    id: str  # the webhook-id it is sent under
    object: Literal["webhook_endpoint.delivery"] = "webhook_endpoint.delivery"
    event_type: str
    state: Literal["pending", "delivered", "failed"]
    attempts: int
    status_code: int | None  # of the last answer
    error: str | None
    is_test: bool
    created_at: int
    last_attempt_at: int | None
    next_attempt_at: int | None


class WebhookEndpointDeliveries(Schema):
    object: Literal["list"] = "list"
    data: list[WebhookEndpointDelivery]
    first_id: str | None
    last_id: str | None
    has_more: bool


class WebhookEventTypes(Schema):
    object: Literal["list"] = "list"
    data: list[str]


class Body(Schema):
    model_config = ConfigDict(extra="forbid")


class CreateWebhookEndpoint(Body):
    name: str = Field(min_length=1, max_length=80)
    url: str = Field(min_length=1, max_length=webhook_services.MAX_URL)
    event_types: list[EventType] = Field(min_length=1, max_length=20)


class UpdateWebhookEndpoint(Body):
    name: str | None = Field(None, min_length=1, max_length=80)
    url: str | None = Field(None, min_length=1, max_length=webhook_services.MAX_URL)
    event_types: list[EventType] | None = Field(None, min_length=1, max_length=20)
    is_active: bool | None = None


class RotateWebhookSecret(Body):
    keep_old_secret_active_for_24_hours: bool = False


class SendWebhookTest(Body):
    event_type: EventType | Literal["webhook.test"] = "webhook.test"


class Page(Schema):
    limit: int = Field(20, ge=1, le=100)
    after: str | None = Field(None, max_length=100)


@router.get("", response=WebhookEndpoints, summary="List webhook endpoints")
def list_webhook_endpoints(request: HttpRequest, page: Query[Page]) -> Any:
    """Of the workspace, oldest first."""
    mine = caller(request).membership
    found = webhook_access.list_webhooks(mine)
    last = place_of(page.after, lambda id_: webhook_access.get_webhook(mine, id_))
    rows, more = page_by_time([found], after=last, limit=page.limit, order="asc")
    first, last_id = _ends(rows)
    return WebhookEndpoints(
        data=[as_endpoint(row) for row in rows], first_id=first, last_id=last_id, has_more=more
    )


@router.post("", response=WebhookEndpointWithSecret, summary="Create a webhook endpoint")
def create_webhook_endpoint(request: HttpRequest, body: CreateWebhookEndpoint) -> Any:
    """The secret its events are signed with is in this answer and in no other."""
    who = caller(request)
    webhook = webhook_services.create_webhook(
        user=who.user,
        workspace=who.workspace,
        name=body.name,
        url=body.url,
        events=list(body.event_types),
        request=request,
    )
    keeps_a_secret(request)
    return _with_secret(webhook)


@router.get(
    "/{webhook_endpoint_id}",
    response=WebhookEndpoint,
    summary="Retrieve a webhook endpoint",
)
def retrieve_webhook_endpoint(request: HttpRequest, webhook_endpoint_id: str) -> Any:
    return as_endpoint(_found(request, webhook_endpoint_id))


@router.post("/{webhook_endpoint_id}", response=WebhookEndpoint, summary="Change a webhook endpoint")
def update_webhook_endpoint(
    request: HttpRequest, webhook_endpoint_id: str, body: UpdateWebhookEndpoint
) -> Any:
    """What is left out stays. Switched off, it is sent nothing, and what was on its way is given up."""
    webhook = webhook_services.update_webhook(
        webhook=_found(request, webhook_endpoint_id),
        by=caller(request).user,
        name=body.name,
        url=body.url,
        events=None if body.event_types is None else list(body.event_types),
        is_active=body.is_active,
        request=request,
    )
    return as_endpoint(webhook)


@router.delete(
    "/{webhook_endpoint_id}",
    response=DeletedWebhookEndpoint,
    summary="Delete a webhook endpoint",
)
def delete_webhook_endpoint(request: HttpRequest, webhook_endpoint_id: str) -> Any:
    webhook = _found(request, webhook_endpoint_id)
    deleted = DeletedWebhookEndpoint(id=str(webhook.pk))
    webhook_services.delete_webhook(webhook=webhook, by=caller(request).user, request=request)
    return deleted


@router.post(
    "/{webhook_endpoint_id}/rotate_secret",
    response=WebhookEndpointWithSecret,
    summary="Rotate a signing secret",
)
def rotate_webhook_secret(request: HttpRequest, webhook_endpoint_id: str, body: RotateWebhookSecret) -> Any:
    """The new secret is in this answer and in no other."""
    webhook = _found(request, webhook_endpoint_id)
    webhook_services.roll_secret(
        webhook=webhook,
        by=caller(request).user,
        keep_old=body.keep_old_secret_active_for_24_hours,
        request=request,
    )
    keeps_a_secret(request)
    return _with_secret(webhook)


@router.post("/{webhook_endpoint_id}/test", response=WebhookTestResult, summary="Send a test event")
@repeatable  # it sends and waits: nothing for a transaction
def test_webhook_endpoint(request: HttpRequest, webhook_endpoint_id: str, body: SendWebhookTest) -> Any:
    """A made-up event, sent now and once; this answers when the endpoint has, after 10 seconds at most."""
    webhook = _found(request, webhook_endpoint_id)
    delivery = webhook_services.send_test(webhook=webhook, type_=body.event_type)
    return WebhookTestResult(
        webhook_endpoint_id=str(webhook.pk),
        event_type=delivery.type,
        success=delivery.status is not None,
        status_code=delivery.status or 0,
        error=delivery.error or None,
    )


@router.get(
    "/{webhook_endpoint_id}/deliveries",
    response=WebhookEndpointDeliveries,
    summary="List deliveries",
)
def list_webhook_deliveries(request: HttpRequest, webhook_endpoint_id: str, page: Query[Page]) -> Any:
    """What was sent to it, for as long as this site keeps that, and what is on its way, newest first."""
    webhook = _found(request, webhook_endpoint_id)
    found = webhook_access.list_deliveries(webhook)
    last = place_of(page.after, lambda id_: webhook_access.get_delivery(webhook, id_))
    rows, more = page_by_time([found], after=last, limit=page.limit, order="desc")
    first, last_id = _ends(rows)
    return WebhookEndpointDeliveries(
        data=[as_delivery(row) for row in rows], first_id=first, last_id=last_id, has_more=more
    )


@router.post(
    "/{webhook_endpoint_id}/deliveries/{delivery_id}/redeliver",
    response=WebhookEndpointDelivery,
    summary="Send an event again",
)
@repeatable
def redeliver(request: HttpRequest, webhook_endpoint_id: str, delivery_id: str) -> Any:
    """The same event under the same webhook-id. This answers when the endpoint has, after 10 seconds at most."""
    delivery = webhook_access.get_delivery(_found(request, webhook_endpoint_id), delivery_id)
    return as_delivery(webhook_services.send_again(delivery=delivery))


@event_types_router.get("", response=WebhookEventTypes, summary="List webhook event types")
def list_webhook_event_types(request: HttpRequest) -> Any:
    return WebhookEventTypes(data=list(TYPES))


def _found(request: HttpRequest, webhook_id: str) -> Webhook:
    return webhook_access.get_webhook(caller(request).membership, webhook_id)


def _ends(rows: list[Any]) -> tuple[str | None, str | None]:
    """Ids of the first and the last."""
    return (str(rows[0].pk), str(rows[-1].pk)) if rows else (None, None)


def as_endpoint(webhook: Webhook) -> WebhookEndpoint:
    return WebhookEndpoint(**_values(webhook))


def _with_secret(webhook: Webhook) -> WebhookEndpointWithSecret:
    return WebhookEndpointWithSecret(signing_secret=webhook.secret, **_values(webhook))


def _values(webhook: Webhook) -> dict[str, Any]:
    return {
        "id": str(webhook.pk),
        "name": webhook.name,
        "url": webhook.url,
        "event_types": webhook.events,
        "is_active": webhook.is_active,
        "off_because": webhook.off_because or None,
        "signing_secret_hint": webhook.secret_hint,
        "created_at": int(webhook.created_at.timestamp()),
        "updated_at": int(webhook.updated_at.timestamp()),
    }


def as_delivery(delivery: WebhookDelivery) -> WebhookEndpointDelivery:
    values: dict[str, Any] = {
        "id": str(delivery.pk),
        "event_type": delivery.type,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "status_code": delivery.status,
        "error": delivery.error or None,
        "is_test": delivery.is_test,
        "created_at": int(delivery.created_at.timestamp()),
        "last_attempt_at": int(delivery.tried_at.timestamp()) if delivery.tried_at else None,
        "next_attempt_at": int(delivery.next_at.timestamp()) if delivery.next_at else None,
    }
    return WebhookEndpointDelivery(**values)
