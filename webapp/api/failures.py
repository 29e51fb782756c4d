"""What a generation says when it did not go well, as the error a program gets. Knows no route."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext as _

from webapp.core.errors import UserError

_AGAIN_AFTER = 5  # seconds


def unavailable(message: str, code: str = "model_unavailable") -> UserError:
    return UserError(code, message, status=503, retry_after=_AGAIN_AFTER)


def refused(data: dict[str, Any], param: str) -> UserError:
    """Of the event `refused`. `param` is where the route takes the prompt from, as "messages"."""
    code, message = data["code"], data["message"]
    match code:
        case "prompt_too_long":
            return UserError("context_length_exceeded", _too_long(data), param=param)
        case "invalid_grammar":
            return UserError("invalid_response_format", message, param="response_format")
        case "invalid_request":
            return UserError(code, message, param=param)
        case "engine_error":
            return UserError(code, message, status=500)
    return unavailable(message, code)


def failed(data: dict[str, Any]) -> UserError:
    """Of the event `done` of one that did not complete."""
    code, message = data["error_code"] or data["state"], data["error_message"]
    match data["state"], code:
        case "cancelled", _code:
            return UserError("cancelled", _("This was cancelled before it was complete."), status=409)
        case _state, "model_unavailable" | "model_not_served" | "deadline_exceeded":
            return unavailable(message, code)
    message = message or _("The model broke off because of an error on our side. Try again.")
    return UserError(code, message, status=500)


def _too_long(data: dict[str, Any]) -> str:
    if "context_length" not in data:
        return str(data["message"])
    return _(
        "This model's maximum context length is %(most)s tokens. However, your input has %(size)s tokens. Shorten it."
    ) % {"most": data["context_length"], "size": data["prompt_tokens"]}
