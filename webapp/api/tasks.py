"""What the API has done in the background: thin."""

from __future__ import annotations

from celery import shared_task

from webapp.api import widget_services


@shared_task(name="widgets.sweep")
def sweep_widgets() -> None:
    widget_services.sweep()
