"""Every error of the API as OpenAI's error object, whoever answers: a route, Django, or what reads the request."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction
from django.core.exceptions import BadRequest, RequestDataTooBig, SuspiciousOperation
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    JsonResponse,
    RawPostDataException,
    UnreadablePostError,
)
from django.http.multipartparser import MultiPartParserError
from django.utils.decorators import sync_and_async_middleware
from django.utils.translation import gettext as _

from webapp.core.errors import UserError
from webapp.core.middleware import error_response
from webapp.core.outages import outage

if TYPE_CHECKING:  # workers, which have no API, know some of these errors, too
    from ninja import NinjaAPI
    from ninja.errors import HttpError, ValidationError

logger = logging.getLogger(__name__)


_SENTENCES = {
    400: ("bad_request", "The request could not be understood."),
    403: ("forbidden", "This may not be done with what was sent along."),
    404: ("unknown_url", "There is nothing at this address. /v1/openapi.json lists what there is."),
    405: (
        "method_not_allowed",
        "This address does not take that method. /v1/openapi.json says which it takes.",
    ),
    413: ("request_too_large", "This is more than this address takes in one request."),
    415: ("unsupported_media_type", "This address does not take a body of that type."),
}


class ModelNotFound(UserError):
    def __init__(self, name: str) -> None:
        message = _(
            "The model “%(name)s” does not exist, or is not yours to use. GET /v1/models lists yours."
        )
        super().__init__("model_not_found", message % {"name": name[:200]}, status=404, param="model")


class Unsupported(UserError):
    """Something OpenAI's API has and this one does not: refused by name, never ignored."""

    def __init__(self, param: str, message: str = "") -> None:
        message = message or _("“%(name)s” is not supported here. Leave it out.") % {"name": param}
        super().__init__("unsupported_parameter", message, param=param)


def answer_errors(api: NinjaAPI) -> None:
    """Makes `api` answer what its routes raise in this shape."""
    from ninja.errors import HttpError, ValidationError

    handlers: dict[type[Exception], Callable[[HttpRequest, Any], HttpResponse]] = {
        UserError: error_response,
        ValidationError: lambda request, error: error_response(request, _first(error)),
        HttpError: _http_error,
        Http404: lambda request, _error: error_response(request, _no_such_address(request)),
        # What Django says of a body or an address it will not read.
        RequestDataTooBig: _with_status(413),
        SuspiciousOperation: _with_status(400),
        BadRequest: _with_status(400),
        MultiPartParserError: _with_status(400),
        UnreadablePostError: _with_status(400),
        RawPostDataException: _with_status(415),
        Exception: _internal,
    }
    for kind, handler in handlers.items():
        api.add_exception_handler(kind, handler)


def _with_status(status: int) -> Callable[[HttpRequest, Any], HttpResponse]:
    code, message = _SENTENCES[status]
    return lambda request, _error: error_response(request, UserError(code, message, status=status))


def no_such_address(request: HttpRequest, rest: str = "") -> HttpResponse:
    """The view of every address under /v1 that is none."""
    return error_response(request, _no_such_address(request))


def _no_such_address(request: HttpRequest) -> UserError:
    message = _("There is no %(method)s %(path)s here. /v1/openapi.json lists what there is.")
    values = {"method": request.method, "path": request.path[:200]}
    return UserError("unknown_url", message % values, status=404)


def _http_error(request: HttpRequest, error: HttpError) -> HttpResponse:
    # What the parser says, which ninja wraps.
    if isinstance(error.__cause__, UserError):
        return error_response(request, error.__cause__)
    code = {400: "invalid_json", 401: "missing_api_key"}.get(error.status_code, "http_error")
    return error_response(request, UserError(code, str(error), status=error.status_code))


def _internal(request: HttpRequest, error: Exception) -> HttpResponse:
    if (known := outage(error)) is not None:
        logger.error("%s: %s", known.code, error, extra={"path": request.path})
        return error_response(request, known)
    logger.exception("api_request_failed", extra={"path": request.path})
    message = _(
        "Something went wrong on the server. Try again; the request id helps to find out what it was."
    )
    response = error_response(request, UserError("internal_error", message, status=500))
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


def _first(error: ValidationError) -> UserError:
    """The first thing that is wrong, as a sentence about the parameter."""
    found = error.errors[0]
    # ("body", "body", "messages", 0, "role"): where it came from and what the route calls it, then the path.
    path = [str(part) for part in found["loc"][2 if found["loc"][0] == "body" else 1 :]]
    # Of a union the name of the kind that was tried stands in the path; it means nothing to the sender.
    param = ".".join(part for part in path if part.isidentifier() or part.isdigit())[:200] or None
    context = found.get("ctx", {})
    param = context.get("param", param)  # where something is wrong with two that came together
    if found["type"] == "extra_forbidden":
        return Unsupported(param or "body")
    if found["type"] == "unsupported":
        name = str(context.get("name", param))
        return Unsupported(
            param or name, _("“%(name)s” is not supported here. Leave it out.") % {"name": name}
        )
    if found["type"] == "missing":
        message = _("“%(name)s” is missing.") % {"name": param or _("The body")}
        return UserError("missing_required_parameter", message, param=param)
    message = _("“%(name)s” is not as it has to be: %(reason)s.")
    reason = str(found["msg"]).removeprefix("Value error, ").rstrip(".")
    code = "invalid_type" if "type" in found["type"] else "invalid_value"
    return UserError(code, message % {"name": param or _("The body"), "reason": reason}, param=param)


@sync_and_async_middleware
def in_openai_shape(
    get_response: Callable[[HttpRequest], Any],
) -> Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]:
    """Errors under /v1 that were none of ours, such as 405 and what Django refuses itself."""
    if iscoroutinefunction(get_response):

        async def shape_async(request: HttpRequest) -> HttpResponseBase:
            return _shaped(request, await get_response(request))

        return shape_async

    def shape(request: HttpRequest) -> HttpResponseBase:
        return _shaped(request, get_response(request))

    return shape


def _shaped(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    if not request.path.startswith("/v1/"):
        return response
    if "Cache-Control" not in response:
        response.headers["Cache-Control"] = "private, no-store"
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    if response.status_code == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if response.status_code < 400 or response.headers.get("Content-Type", "").startswith("application/json"):
        return response
    fallback = ("internal_error", "Something went wrong on the server. Try again in a moment.")
    code, message = _SENTENCES.get(response.status_code, fallback)
    shaped = JsonResponse(
        UserError(code, message, status=response.status_code).as_json(), status=response.status_code
    )
    for name, value in response.headers.items():
        if name not in ("Content-Type", "Content-Length", "Content-Encoding"):
            shaped.headers[name] = value
    return shaped
