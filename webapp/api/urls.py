"""Addresses under /v1, of which what is none answers in JSON, too; and pages of what programs use and what is used."""

from django.urls import path, re_path

from webapp.api import limit_views, usage_views, webhook_views
from webapp.api.app import api
from webapp.api.errors import no_such_address

_WEBHOOKS = "workspaces/<uuid:workspace_id>/webhooks/"
_WEBHOOK = f"{_WEBHOOKS}<uuid:webhook_id>/"

urlpatterns = [
    path("usage/", usage_views.usage, name="usage"),
    path("usage/usage.csv", usage_views.usage_csv, name="usage_csv"),
    path("usage/limits/", limit_views.limits, name="limits"),
    path("usage/limits/workspace/", limit_views.of_workspace, name="limits_all"),
    path("usage/limits/members/<uuid:user_id>/", limit_views.of_member, name="limits_member"),
    path("usage/limits/keys/<uuid:key_id>/", limit_views.of_key, name="limits_key"),
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
