"""Addresses for machines."""

from django.urls import path

from webapp.ops import views

urlpatterns = [
    path("healthz", views.healthz),
    path("readyz", views.readyz),
    path("metrics", views.prometheus),
]
