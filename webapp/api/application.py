"""The short way to the routes programs ask all day: no sessions, cookies, pages or languages between socket and route.

What comes with an Authorization header needs none of that. Everything else under /v1 takes the site's own way, so that
a page may call it with its session and CSRF token. Both lead to the same routes.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from channels.db import database_sync_to_async
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.exception import convert_exception_to_response
from django.utils.module_loading import import_string

from webapp.accounts.models import Scope
from webapp.api.auth import let_in_key
from webapp.core.body_limit import MAX_BODY_BYTES

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
    "django_structlog.middlewares.RequestMiddleware",
    "webapp.api.errors.in_openai_shape",
    "webapp.api.door.refuse_at_the_door",
)


class ApiApplication(ASGIHandler):
    """Django's own handler with the few middlewares above, and one thread for all of its requests' queries."""

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
        await self.handle(scope, receive, send)


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
