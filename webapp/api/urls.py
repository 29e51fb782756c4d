"""Addresses under /v1. What is none of them answers in JSON, too."""

from django.urls import path, re_path

from webapp.api import guide_views
from webapp.api.app import api
from webapp.api.errors import no_such_address

urlpatterns = [
    path("docs/", guide_views.first, name="guides"),
    path("docs/<slug:slug>/", guide_views.guide, name="guide"),
    path("v1/", api.urls),
    re_path(r"^v1/(?P<rest>.*)$", no_such_address, name="api_unknown"),
]
