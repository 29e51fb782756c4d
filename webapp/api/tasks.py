"""What the API does by the clock, on queue `default`. Thin: the work is in services.py."""

from __future__ import annotations

from celery import shared_task

from webapp.api import services


@shared_task(name="api.forget")
def forget() -> None:
    services.forget_completions()
