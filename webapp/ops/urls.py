"""Addresses for machines, and the page of the site's operators."""

from django.urls import path

from webapp.ops import status_views, views

urlpatterns = [
    path("healthz", views.healthz),
    path("readyz", views.readyz),
    path("metrics", views.prometheus),
    path("status/", status_views.status, name="status"),
    path("status/now/", status_views.status_now, name="status_now"),
]
