"""Answers what machines ask before anything that is about people: hosts, sessions, languages, access logs.

Probes come by address, without a Host header the site knows, every few seconds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

from webapp.ops import views

VIEWS = {"/healthz": views.healthz, "/readyz": views.readyz, "/metrics": views.prometheus}


@sync_and_async_middleware
def machine_endpoints(
    get_response: Callable[[HttpRequest], Any],
) -> Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]:
    if iscoroutinefunction(get_response):

        async def answer_async(request: HttpRequest) -> HttpResponseBase:
            if view := VIEWS.get(request.path):
                return await sync_to_async(view)(request)
            response: HttpResponseBase = await get_response(request)
            return response

        return answer_async

    def answer(request: HttpRequest) -> HttpResponseBase:
        if view := VIEWS.get(request.path):
            return view(request)
        response: HttpResponseBase = get_response(request)
        return response

    return answer
