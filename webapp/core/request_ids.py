"""One id for a request, from the program that sends it to the last process that works on it.

A program may choose it (X-Request-ID); every answer says it (x-request-id). Knows nothing of what is asked.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

MAX_LENGTH = 128
_ACCEPTED = re.compile(r"[A-Za-z0-9._-]{1,128}")


@sync_and_async_middleware
def carry_request_id(
    get_response: Callable[[HttpRequest], Any],
) -> Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]:
    """Before django-structlog's middleware, which takes the id from the header and logs it."""
    if iscoroutinefunction(get_response):

        async def carry_async(request: HttpRequest) -> HttpResponseBase:
            request_id = _name(request)
            response: HttpResponseBase = await get_response(request)
            response.headers["x-request-id"] = request_id
            return response

        return carry_async

    def carry(request: HttpRequest) -> HttpResponseBase:
        request_id = _name(request)
        response: HttpResponseBase = get_response(request)
        response.headers["x-request-id"] = request_id
        return response

    return carry


def request_id_for(given: str) -> str:
    """What a program chose, or one of ours: whatever else comes would be a line in our logs that a stranger wrote."""
    return given if _ACCEPTED.fullmatch(given) else f"req_{uuid.uuid4().hex}"


def current_request_id() -> str:
    """Of the request, the socket's command or the task that this thread or coroutine works on; "" where of none."""
    return str(structlog.contextvars.get_contextvars().get("request_id", ""))[:MAX_LENGTH]


@contextmanager
def on_behalf_of(request_id: str, **ids: str) -> Iterator[None]:
    """What is logged inside names the request, where there was one, and these ids."""
    request = {"request_id": request_id} if request_id else {}
    with structlog.contextvars.bound_contextvars(**request, **ids):
        yield


def _name(request: HttpRequest) -> str:
    request_id = request_id_for(request.META.get("HTTP_X_REQUEST_ID", ""))
    request.META["HTTP_X_REQUEST_ID"] = request_id
    return request_id
