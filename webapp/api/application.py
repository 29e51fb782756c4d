"""The short way to the routes programs ask all day: no sessions, cookies, pages or languages between socket and route.

What comes with an Authorization header needs none of that. Everything else under /v1 takes the site's own way, so that
a page may call it with its session and CSRF token. Both lead to the same routes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from asgiref.sync import sync_to_async
from channels.db import database_sync_to_async
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.core.handlers.exception import convert_exception_to_response
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse
from django.urls import set_script_prefix
from django.utils.module_loading import import_string

from webapp.accounts.models import Scope
from webapp.api.auth import let_in_key
from webapp.core.body_limit import MAX_BODY_BYTES
from webapp.core.request_log import RequestLogMiddleware

Application = Callable[..., Awaitable[None]]
# Coroutines that do what little they ask the database in one visit. Others may take a while, and all of these
# share one thread for the database, which is what makes them fast.
SHORT = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/conversations",
    "/v1/embeddings",
    "/v1/models",
    "/v1/moderations",
    "/v1/responses",
)
# Addresses that take files, of up to API_MAX_UPLOAD_MB.
UPLOADS = re.compile(r"/v1/(?:files|datasets/[^/]+/files)")
_MIDDLEWARE = (
    "webapp.core.request_metrics.count_requests",
    "webapp.core.request_ids.carry_request_id",
    "webapp.api.application.LogInPlace",
    "webapp.api.errors.in_openai_shape",
    "webapp.api.door.refuse_at_the_door",
)


class LogInPlace(RequestLogMiddleware):
    """One line for each request, as everywhere; written without a thread, since nothing here has to be waited for."""

    async def __acall__(self, request: HttpRequest) -> HttpResponse:
        self.prepare(request)
        response: HttpResponse = await self.get_response(request)  # type: ignore[misc]
        self.handle_response(request, response)
        return response


class ApiApplication(ASGIHandler):
    """Django's own handler with the few middlewares above, and one thread for all of its requests' queries.

    It does without the signals at a request's beginning and end, a visit to that thread each: what they see to is
    that broken connections to the database are not kept, and here an answer that failed sees to that.
    """

    def load_middleware(self, is_async: bool = False) -> None:
        # As BaseHandler.load_middleware makes them, without settings.MIDDLEWARE.
        self._view_middleware: list[Any] = []
        self._template_response_middleware: list[Any] = []
        self._exception_middleware: list[Any] = []
        handler: Any = convert_exception_to_response(self._get_response_async)  # type: ignore[attr-defined]
        for name in reversed(_MIDDLEWARE):
            handler = convert_exception_to_response(import_string(name)(handler))
        self._middleware_chain = handler

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        # Not in a ThreadSensitiveContext: a thread for each request would be a database connection for each.
        body = await _body(receive)
        if body is None:
            return
        set_script_prefix(get_script_prefix(scope))
        request, refusal = self.create_request(scope, BytesIO(body))
        if request is None:
            assert refusal is not None
            await self.send_response(refusal, send)
            return
        request.urlconf = "webapp.api.urls"
        with _cancelled_when_gone(receive):
            await self._answer(request, send)

    async def _answer(self, request: HttpRequest, send: Any) -> None:
        response = await self.get_response_async(request)
        try:
            await self.send_response(response, send)
        finally:
            for close in response._resource_closers:  # type: ignore[attr-defined]
                close()
        if response.status_code >= 500:
            await sync_to_async(close_old_connections)()


async def _body(receive: Any) -> bytes | None:
    """All of it, which `limit_bodies` keeps small; None where the client has gone before it had sent it."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


@contextmanager
def _cancelled_when_gone(receive: Any) -> Iterator[None]:
    """Cancels what runs inside when the client hangs up, and swallows that."""
    inside = asyncio.current_task()
    assert inside is not None
    has_gone = is_over = False

    def cancel(_gone: object) -> None:
        nonlocal has_gone
        if not is_over:
            has_gone = True
            inside.cancel()

    leaving = asyncio.ensure_future(receive())
    leaving.add_done_callback(cancel)
    try:
        yield
    except asyncio.CancelledError:
        if not has_gone:
            raise
        inside.uncancel()
    finally:
        is_over = True
        leaving.cancel()


async def largest_body(scope: MutableMapping[str, Any]) -> int:
    """For `limit_bodies`: who sends a key for files may upload one; nobody else may fill the disk with anything.

    Raises UserError for a key that is none, or may not upload.
    """
    if not is_upload(scope):
        return MAX_BODY_BYTES
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    if not given:
        return MAX_BODY_BYTES
    await database_sync_to_async(let_in_key)(given[0].decode("latin1"), Scope.FILES)
    # The file, and the form round it.
    most: int = settings.API_MAX_UPLOAD_MB * 2**20 + 2**20
    return max(most, MAX_BODY_BYTES)


def is_upload(scope: MutableMapping[str, Any]) -> bool:
    return scope["method"] == "POST" and UPLOADS.fullmatch(scope["path"]) is not None


def short_way(api: Application, site: Application) -> Application:
    async def choose(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        path: str = scope["path"]
        has_key = any(name == b"authorization" for name, _value in scope["headers"])
        is_short = path in SHORT or path.startswith(tuple(f"{route}/" for route in SHORT))
        await (api if has_key and is_short else site)(scope, receive, send)

    return choose
