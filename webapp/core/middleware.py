"""What answers go through: a UserError becomes JSON for programs or a page for people, and nothing is cached."""

from __future__ import annotations

import sys
from collections.abc import Callable
from urllib.parse import urlsplit

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect, JsonResponse
from django.shortcuts import render
from django.template import loader
from django.utils.cache import patch_cache_control
from django.utils.http import url_has_allowed_host_and_scheme

from webapp.core.errors import UserError
from webapp.core.outages import outage


def wants_json(request: HttpRequest) -> bool:
    """Whether a program is asking: the API's addresses, or an Accept that names JSON and not HTML."""
    if request.path.startswith("/v1/"):
        return True
    accept = request.headers.get("Accept", "")
    return "json" in accept and "text/html" not in accept


def error_response(request: HttpRequest, error: UserError) -> HttpResponse:
    response: HttpResponse
    if wants_json(request):
        response = JsonResponse(error.as_json(), status=error.status)
    else:
        response = render(request, "error.html", {"error": error}, status=error.status)
    for name, value in error.headers.items():
        response[name] = value
    if error.retry_after is not None:
        response["Retry-After"] = str(error.retry_after)
    return response


def page_before(request: HttpRequest) -> str:
    """Where on this site the form stood that is sent; "" where nobody says so."""
    page = request.headers.get("Referer", "")
    if not url_has_allowed_host_and_scheme(page, {request.get_host()}, require_https=request.is_secure()):
        return ""
    return urlsplit(page)._replace(scheme="", netloc="").geturl()


def _said_on_the_page_before(request: HttpRequest, error: UserError) -> HttpResponse | None:
    """Of what a button asks for and cannot be, as another tab was faster: a page of its own would be a dead end."""
    is_button = request.method == "POST" and not wants_json(request) and "HX-Request" not in request.headers
    page = page_before(request) if is_button and error.status in (400, 409) else ""
    if not page:
        return None
    messages.error(request, error.message)
    return HttpResponseRedirect(page)


class UserErrorMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        known = exception if isinstance(exception, UserError) else outage(exception)
        if known is None:
            return None
        return _said_on_the_page_before(request, known) or error_response(request, known)


class PrivateByDefaultMiddleware:
    """What a page does not say may be kept, nobody keeps: neither a cache on the way nor the browser's back button."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if "Cache-Control" not in response:
            patch_cache_control(response, private=True, no_store=True)
        return response


def server_error(request: HttpRequest) -> HttpResponse:
    """The page of what nobody expected, or of an outage that was met before the page itself was asked. Without what
    other pages know of people, which may be what is broken."""
    error = sys.exception()
    known = outage(error) if error is not None else None
    context = {"error": known, "request_id": request.META.get("HTTP_X_REQUEST_ID", "")}
    page = HttpResponse(loader.render_to_string("500.html", context), status=known.status if known else 500)
    if known is not None and known.retry_after is not None:
        page["Retry-After"] = str(known.retry_after)
    return page
