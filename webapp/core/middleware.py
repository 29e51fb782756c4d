"""What answers go through: a UserError becomes JSON for programs or a page for people, and nothing is cached."""

from __future__ import annotations

import sys
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import render
from django.template import loader
from django.utils.cache import patch_cache_control

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


class UserErrorMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        known = exception if isinstance(exception, UserError) else outage(exception)
        return error_response(request, known) if known is not None else None


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
