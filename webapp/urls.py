"""Every address of the site, by app."""

from django.urls import include, path

handler500 = "webapp.core.middleware.server_error"

urlpatterns = [
    path("", include("webapp.chat.urls")),
    path("", include("webapp.accounts.urls")),
    path("accounts/", include("allauth.urls")),
    path("", include("training.urls")),
    path("", include("webapp.api.urls")),
    path("", include("webapp.ops.urls")),
]
