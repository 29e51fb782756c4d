"""Addresses under /v1, of which what is none answers in JSON, too; and the pages of what programs use."""

from django.urls import path

from webapp.api import guide_views, limit_views, usage_views, webhook_views, widget_frame, widget_pages
from webapp.api.app import api
from webapp.api.errors import no_such_address

_WEBHOOKS = "workspaces/<uuid:workspace_id>/webhooks/"
_WEBHOOK = f"{_WEBHOOKS}<uuid:webhook_id>/"

urlpatterns = [
    path("docs/", guide_views.first, name="guides"),
    path("docs/<slug:slug>/", guide_views.guide, name="guide"),
    path("settings/widgets/", widget_pages.widgets, name="widgets"),
    path("settings/widgets/<uuid:widget_id>/", widget_pages.widget_settings, name="widget_settings"),
    path("settings/widgets/<uuid:widget_id>/delete", widget_pages.widget_delete, name="widget_delete"),
    path("widget.js", widget_frame.script, name="widget_script"),
    path("widget/<uuid:widget_id>/", widget_frame.frame, name="widget_frame"),
    path("widget/<uuid:widget_id>/sessions", widget_frame.sessions, name="widget_sessions"),
    path("widget/<uuid:widget_id>/messages", widget_frame.messages, name="widget_messages"),
    path("widget/<uuid:widget_id>/reply", widget_frame.reply, name="widget_reply"),
    path("widget/<uuid:widget_id>/stop", widget_frame.stop, name="widget_stop"),
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
    path("usage/", usage_views.usage, name="usage"),
    path("usage/usage.csv", usage_views.usage_csv, name="usage_csv"),
    path("usage/limits/", limit_views.limits, name="limits"),
    path("usage/limits/workspace/", limit_views.of_workspace, name="limits_all"),
    path("usage/limits/members/<uuid:user_id>/", limit_views.of_member, name="limits_member"),
    path("usage/limits/keys/<uuid:key_id>/", limit_views.of_key, name="limits_key"),
    path("v1/", api.urls),
    path("v1/<path:rest>", no_such_address, name="api_unknown"),
]
