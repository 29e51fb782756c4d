"""Counts requests by method and status, their time, and open sockets. Knows nothing of what they ask."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

from webapp.core import metrics

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@sync_and_async_middleware
def count_requests(
    get_response: Callable[[HttpRequest], Any],
) -> Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]:
    if iscoroutinefunction(get_response):

        async def counting_async(request: HttpRequest) -> HttpResponseBase:
            started = time.perf_counter()
            response: HttpResponseBase = await get_response(request)
            _count(request, response.status_code, started)
            return response

        return counting_async

    def counting(request: HttpRequest) -> HttpResponseBase:
        started = time.perf_counter()
        response: HttpResponseBase = get_response(request)
        _count(request, response.status_code, started)
        return response

    return counting


def count_sockets(application: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Wraps an ASGI application of websockets."""

    async def counting(scope: Any, receive: Any, send: Any) -> None:
        with metrics.sockets.track_inprogress():
            await application(scope, receive, send)

    return counting


def _count(request: HttpRequest, status: int, started: float) -> None:
    # Whoever makes up methods must not make up time series.
    method = request.method if request.method in _METHODS else "other"
    metrics.http_requests.labels(method, str(status)).inc()
    metrics.http_seconds.observe(time.perf_counter() - started)
    if status >= 500 and status != 503:  # which says that there is too much to do, and when to come back
        metrics.errors.labels("http", str(status)).inc()
