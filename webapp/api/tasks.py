"""What the API does by the clock, on queue `default`. Thin: the work is in the modules the tasks are named after."""

from __future__ import annotations

from celery import shared_task

from webapp.api import idempotency, services, webhook_delivery, widget_services


@shared_task(name="api.deliver_webhooks")
def deliver_webhooks() -> None:
    webhook_delivery.deliver_due()


@shared_task(name="api.prune_webhooks")
def prune_webhooks() -> None:
    webhook_delivery.prune()


@shared_task(name="widgets.sweep")
def sweep_widgets() -> None:
    widget_services.sweep()


@shared_task(name="api.forget")
def forget() -> None:
    services.forget_completions()


@shared_task(name="api.sweep_idempotency")
def sweep_idempotency() -> None:
    idempotency.sweep()
