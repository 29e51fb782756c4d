"""What no address under /v1 takes, whatever it is for: refused before anybody looks at who asks.

Knows nothing of routes. How large a body may be, and how slow, is `webapp.core.body_limit`'s business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware
from django.utils.translation import gettext as _

from webapp.core.errors import UserError
from webapp.core.middleware import error_response

MAX_QUERY_BYTES = 8 * 2**10
MAX_PATH_BYTES = 2 * 2**10


@sync_and_async_middleware
def refuse_at_the_door(
    get_response: Callable[[HttpRequest], Any],
) -> Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]:
    if iscoroutinefunction(get_response):

        async def refuse_async(request: HttpRequest) -> HttpResponseBase:
            refusal = _refusal(request)
            response: HttpResponseBase = refusal or await get_response(request)
            return response

        return refuse_async

    def refuse(request: HttpRequest) -> HttpResponseBase:
        response: HttpResponseBase = _refusal(request) or get_response(request)
        return response

    return refuse


def _refusal(request: HttpRequest) -> HttpResponseBase | None:
    if not request.path.startswith("/v1/"):
        return None
    error = _objection(request)
    return error_response(request, error) if error else None


def _objection(request: HttpRequest) -> UserError | None:
    query = request.META.get("QUERY_STRING", "")
    if len(query) > MAX_QUERY_BYTES or len(request.path) > MAX_PATH_BYTES:
        return UserError(
            "address_too_long",
            _("The address is too long. What is to be sent belongs in the body, as JSON."),
            status=414,
        )
    # PostgreSQL stores no text with it, and so finds none by it.
    if "\x00" in request.path or "%00" in query or "\x00" in query:
        return UserError(
            "invalid_address", _("The address holds the character U+0000, which nothing here is called.")
        )
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        return UserError(
            "unsupported_content_encoding",
            _("Bodies are taken as they are, not compressed. Leave out Content-Encoding."),
            status=415,
        )
    return None
