"""An empty site leads to set-up, a person without a workspace to one, and who was logged out back to their form.

What is seen of a login is kept.
"""

from __future__ import annotations

from collections.abc import Callable

from allauth.usersessions.models import UserSession
from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext as _

from webapp.accounts.access import NoWorkspace
from webapp.accounts.models import User
from webapp.accounts.sockets import session_group
from webapp.core.errors import UserError
from webapp.core.middleware import error_response, page_before, wants_json

GetResponse = Callable[[HttpRequest], HttpResponseBase]
# What machines ask for, and the pages' own looks, work before the site is set up.
ALWAYS_OPEN = ("/static/", "/healthz", "/readyz", "/metrics", "/setup/")


class SetupMiddleware:
    """Until there is an owner, every page leads to /setup/."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self.set_up = False

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not self.set_up and not request.path.startswith(ALWAYS_OPEN):
            self.set_up = User.objects.exists()
            if not self.set_up:
                return self._lead_to_setup(request)
        return self.get_response(request)

    def _lead_to_setup(self, request: HttpRequest) -> HttpResponse:
        if wants_json(request):
            return error_response(
                request,
                UserError("not_set_up", "This site has no owner yet: open it in a browser.", status=503),
            )
        return HttpResponseRedirect(reverse("setup"))


class NoWorkspaceMiddleware:
    """Leads a person who is in no workspace to the page where they can make one or learn how to be invited."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if isinstance(exception, NoWorkspace) and not wants_json(request):
            return HttpResponseRedirect(reverse("workspace_new"))
        return None


class FormLoginMiddleware:
    """Leads who is asked to log in as they send a form to the page it stood on: nothing can be seen at its address, and
    what was sent is gone, which the page to log in says."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if request.method != "POST" or response.status_code != 302 or wants_json(request):
            return response
        if response["Location"] != redirect_to_login(request.get_full_path())["Location"]:
            return response
        messages.error(request, _("You were logged out, so that was not done. Log in and try it again."))
        return redirect_to_login(page_before(request) or reverse("home"))


class LastSeenMiddleware:
    """Keeps when and from where a login was last used: once a minute, since a write on every page is one too many."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        key = request.session.session_key
        if key and request.user.is_authenticated and cache.add(f"seen.{session_group(key)}", 1, 60):
            UserSession.objects.create_from_request(request)
        return self.get_response(request)
