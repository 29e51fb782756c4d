"""Addresses under /v1, of which what is none answers in JSON, too; and of the pages about what is used."""

from django.urls import path, re_path

from webapp.api import limit_views, usage_views
from webapp.api.app import api
from webapp.api.errors import no_such_address

urlpatterns = [
    path("usage/", usage_views.usage, name="usage"),
    path("usage/usage.csv", usage_views.usage_csv, name="usage_csv"),
    path("usage/limits/", limit_views.limits, name="limits"),
    path("usage/limits/workspace/", limit_views.of_workspace, name="limits_all"),
    path("usage/limits/members/<uuid:user_id>/", limit_views.of_member, name="limits_member"),
    path("usage/limits/keys/<uuid:key_id>/", limit_views.of_key, name="limits_key"),
    path("v1/", api.urls),
    re_path(r"^v1/(?P<rest>.*)$", no_such_address, name="api_unknown"),
]
