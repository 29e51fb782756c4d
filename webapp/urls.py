"""Every address of the site, by app."""

from django.urls import include, path

urlpatterns = [
    path("", include("webapp.chat.urls")),
    path("", include("webapp.accounts.urls")),
    path("accounts/", include("allauth.urls")),
    path("", include("training.urls")),
    path("", include("webapp.api.urls")),
    path("", include("webapp.ops.urls")),
]
