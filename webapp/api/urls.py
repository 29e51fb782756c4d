"""Addresses under /v1, and pages of what only programs use. What is none of the former answers in JSON, too."""

from django.urls import path, re_path

from webapp.api import webhook_views
from webapp.api.app import api
from webapp.api.errors import no_such_address

_WEBHOOKS = "workspaces/<uuid:workspace_id>/webhooks/"
_WEBHOOK = f"{_WEBHOOKS}<uuid:webhook_id>/"

urlpatterns = [
    path("settings/workspace/webhooks/", webhook_views.webhooks, name="webhooks"),
    path(_WEBHOOKS, webhook_views.create, name="webhook_create"),
    path(_WEBHOOK, webhook_views.webhook, name="webhook"),
    path(f"{_WEBHOOK}switch/", webhook_views.switch, name="webhook_switch"),
    path(f"{_WEBHOOK}test/", webhook_views.test, name="webhook_test"),
    path(f"{_WEBHOOK}secret/", webhook_views.secret, name="webhook_secret"),
    path(f"{_WEBHOOK}delete/", webhook_views.delete, name="webhook_delete"),
    path(
        f"{_WEBHOOK}deliveries/<uuid:delivery_id>/again/", webhook_views.again, name="webhook_delivery_again"
    ),
    path("v1/", api.urls),
    re_path(r"^v1/(?P<rest>.*)$", no_such_address, name="api_unknown"),
]
